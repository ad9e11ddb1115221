"""A self-hostable hub for adapters: a registry with an index, an HTTP interface and pages."""

from adapterhub.server.__about__ import __version__

__all__ = ["__version__"]
