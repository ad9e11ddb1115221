"""A different adapter in every row of the batch, without a loop over adapters: one file for each kind of site."""
