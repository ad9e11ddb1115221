"""Full-text search over the listed adapters, popular ones first, with facets and cursors."""
