"""Where adapters come from, behind one interface: our hub over HTTP, a static export, the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from adapterhub.client.cache import Partial
    from adapterhub.client.index import IndexAnswer
    from adapterhub.client.settings import Hub

__all__ = ["Source"]


class Source(Protocol):
    """One hub: index files to find adapters, manifests and blobs by digest to get them.

    Attributes:
        hub: which one.
        offline_capable: asking it needs no network (a local folder).
    """

    hub: Hub
    offline_capable: bool

    def index_file(self, path: str, etag: str | None, *, patient: bool) -> IndexAnswer:
        """The index file at `path` (`/index/…`)."""
        ...

    def manifest(self, digest: str) -> bytes:
        """Bytes of a manifest; not yet verified."""
        ...

    def blob(self, digest: str, size: int, partial: Partial, progress: Callable[[int], None]) -> None:
        """Append the missing bytes of a blob to `partial`; `progress` gets how many arrived each time."""
        ...

    def adapters(self, filters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Every adapter that passes the filters, as JSON objects of `AdapterInfo`'s fields."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...
