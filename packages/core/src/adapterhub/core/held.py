"""What a model holds under one name: an adapter, or a fusion of adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from adapterhub.spec.config import AdapterConfig
    from adapterhub.spec.fusion import FusionConfig

__all__ = ["Adapter", "Fusion"]


@dataclass(slots=True)
class _Held:
    """Modules of one name, by the key of their site."""

    name: str
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def tensors(self) -> dict[str, nn.Parameter]:
        """Every parameter by neutral key. The parameters themselves, not copies."""
        return {f"{key}.{leaf}": p for key, module in self.modules.items() for leaf, p in module.named_parameters()}

    def parameters(self) -> Iterable[nn.Parameter]:
        """Every parameter."""
        for module in self.modules.values():
            yield from module.parameters()

    def count(self) -> int:
        """Number of scalars."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(slots=True)
class Adapter(_Held):
    """One adapter on a model.

    Attributes:
        name: what it is called here.
        config: what it is.
        type: "text_task", "text_lang" or whatever the user said; None if nothing.
        modules: the module at each site it has one, by site key.
        missing, unexpected: neutral keys a checkpoint lacked, or had too many, when it was loaded without `strict`.
    """

    config: AdapterConfig = None  # type: ignore[assignment]
    type: str | None = None
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Fusion(_Held):
    """One fusion layer set: attention over the named adapters at every site where one of them is."""

    adapters: tuple[str, ...] = ()
    config: FusionConfig = None  # type: ignore[assignment]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
