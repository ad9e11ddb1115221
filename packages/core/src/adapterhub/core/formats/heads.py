"""A head by itself, of whichever format."""

from __future__ import annotations

from pathlib import Path

from adapterhub.core.formats import native
from adapterhub.core.formats.adapters_v1_heads import read_legacy_head
from adapterhub.core.formats.checkpoint import HeadCheckpoint
from adapterhub.core.formats.files import read_json
from adapterhub.spec.errors import CheckpointError

__all__ = ["read_any_head"]


def read_any_head(folder: Path) -> HeadCheckpoint:
    """The head in `folder`.

    Raises:
        CheckpointError: there is none, or it is malformed.
    """
    path = folder / "head_config.json"
    if not path.is_file():
        raise CheckpointError(f"There is no head in {folder}.", hint="A head is head_config.json and its weights.")
    head = native.read_head(folder) if native.is_native(read_json(path)) else read_legacy_head(folder)
    assert head is not None
    return head
