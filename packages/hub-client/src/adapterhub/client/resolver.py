"""How `model.load_adapter("sentiment/sst-2@ukp")` reaches this package: the entry point `adapterhub.resolvers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["resolve_reference"]


def resolve_reference(
    reference: str,
    *,
    model_name: str | None = None,
    config: Any = None,
    version: str | None = None,
    source: str | None = None,
) -> Path:
    """A folder with the verified files of the adapter `reference` stands for.

    Args:
        reference: a reference; the name of a repository with `source="hf"`.
        model_name: the base model.
        config: keeps adapters of this config.
        version: as `:version` in the reference; a revision with `source="hf"`.
        source: `ah`, `hf`, or a configured hub's name.

    Raises:
        As `adapterhub.client.download`.
    """
    from adapterhub.client.client import HubClient

    with HubClient() as client:
        return client.download(reference, model_name=model_name, config=config, version=version, source=source)
