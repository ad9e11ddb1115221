"""From a reference to one version: the spec's resolution over the database, the sparse index, manifests and blobs."""
