"""Organisations, their members, and the tokens that act for them."""
