"""Adapter methods, one file each: what they put where, and their equations.

A method is a function `place(config, pool, source) -> iterator of (site, module)`: it walks the sites of the pool, builds the
modules its config asks for and gives them to their sites. `source(site)` gives the parameters (fresh, from a checkpoint, or
shapes only). Register a method in `_METHODS` under the `method` tag of its config.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import nn

from adapterhub.core.methods.parameters import Source
from adapterhub.spec.config import AdapterConfig, UnionConfig
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site

__all__ = ["place"]

#: tag of the config → module here with a function `place`
_METHODS = {
    "bottleneck": "bottleneck",
    "lora": "lora",
    "ia3": "ia3",
    "prefix": "prefix",
    "prompt": "prompt",
    "reft": "reft",
}


def place(config: AdapterConfig, pool: Pool, source: Callable[[Site], Source]) -> Iterator[tuple[Site, nn.Module]]:
    """Every module an adapter of this config has on this model, with its site.

    Raises:
        InvalidConfigError: a method this release has not, or two parts of a union at one place.
    """
    members = config.configs if isinstance(config, UnionConfig) else (config,)
    taken: set[str] = set()
    for member in members:
        try:
            method = importlib.import_module(f"{__name__}.{_METHODS[member.method]}")
        except (KeyError, ModuleNotFoundError):
            raise InvalidConfigError(f"The method {member.method!r} is not available in this release.") from None
        for site, module in method.place(member, pool, source):
            if site.key in taken:
                raise InvalidConfigError(f"Two parts of the union are placed at {site.key}.")
            taken.add(site.key)
            yield site, module
