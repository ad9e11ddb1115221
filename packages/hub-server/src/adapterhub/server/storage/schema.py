"""All tables of the hub in one `metadata`: importing this module imports every domain that owns tables."""

from __future__ import annotations

from adapterhub.server.accounts import tables as _accounts  # noqa: F401 - adds its tables to the metadata
from adapterhub.server.catalogue import tables as _catalogue  # noqa: F401 - likewise
from adapterhub.server.federation import tables as _federation  # noqa: F401 - likewise
from adapterhub.server.moderation import tables as _moderation  # noqa: F401 - likewise
from adapterhub.server.storage.tables import metadata

__all__ = ["metadata"]
