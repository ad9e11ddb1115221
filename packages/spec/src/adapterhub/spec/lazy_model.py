"""The base of this package's models: a schema is built when it is first used, so that importing them costs little."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["LazyModel"]


class LazyModel(BaseModel):
    """A model whose annotations are looked up in its own module, never in the frames of whoever uses it first."""

    model_config = ConfigDict(defer_build=True)

    @classmethod
    def model_rebuild(
        cls,
        *,
        force: bool = False,
        raise_errors: bool = True,
        _parent_namespace_depth: int = 2,
        _types_namespace: Mapping[str, Any] | None = None,
    ) -> bool | None:
        """As pydantic's. Reading the local variables of a frame can end the process in CPython 3.13.0."""
        if _types_namespace is None:
            _types_namespace = dict(vars(sys.modules[cls.__module__]))
        return super().model_rebuild(force=force, raise_errors=raise_errors, _types_namespace=_types_namespace)
