"""All tables of the hub in one `metadata`: importing this module imports every domain that owns tables."""

from __future__ import annotations

import adapterhub.server.catalogue.tables  # noqa: F401 - adds its tables to the metadata
from adapterhub.server.storage.tables import metadata

__all__ = ["metadata"]
