"""From uploaded bytes to a published version."""
