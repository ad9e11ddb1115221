"""From a model to a hub in one step: save to a folder, hand it to the installed publisher."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from adapterhub.core.checkpoints import save_adapter
from adapterhub.core.resolvers import installed_publisher

__all__ = ["push_adapter"]


def push_adapter(
    model: nn.Module,
    adapter_name: str,
    reference: str,
    *,
    with_head: bool = True,
    version: str | None = None,
    **metadata: Any,
) -> Any:
    """Publishes an adapter of the model under a reference.

    Args:
        adapter_name: the adapter.
        reference: `task/subtask@namespace` or `@namespace/name`.
        with_head: whether its head goes with it.
        version: by default the publisher's.
        metadata: licence, languages, metrics, …, for the publisher.

    Returns:
        what the publisher returns.

    Raises:
        AdapterHubError: no publisher is installed, or what it raises.
    """
    publish = installed_publisher()
    with tempfile.TemporaryDirectory(prefix="adapterhub-") as folder:
        path = save_adapter(model, Path(folder) / "adapter", adapter_name, with_head=with_head)
        given = {} if version is None else {"version": version}
        return publish(path, reference, **given, **metadata)
