"""What a model holds under one name: an adapter, or a fusion of adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from torch import Tensor, nn

if TYPE_CHECKING:
    from adapterhub.core.packed import Packed
    from adapterhub.spec.config import AdapterConfig
    from adapterhub.spec.fusion import FusionConfig

__all__ = ["Adapter", "Fusion", "the_config"]

_configs: WeakValueDictionary[int, AdapterConfig] = WeakValueDictionary()


def the_config(config: AdapterConfig) -> AdapterConfig:
    """The object that stands for all equal configs, which nobody can change: a thousand adapters of one kind share it."""
    if _configs.get(id(config)) is config:
        return config
    key = hash(config.model_dump_json())
    found = _configs.setdefault(key, config)
    if found != config:
        return config
    _configs[id(found)] = found
    return found


@dataclass(slots=True)
class _Held:
    """Modules of one name, by the key of their site."""

    name: str
    placed: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The module at each site it has one, by site key."""
        return self.placed

    def sites(self) -> list[str]:
        """The keys of the sites it has a module at."""
        return list(self.placed)

    def tensors(self) -> dict[str, nn.Parameter]:
        """Every parameter by neutral key. The parameters themselves, not copies."""
        return {f"{key}.{leaf}": p for key, module in self.modules.items() for leaf, p in module.named_parameters()}

    def values(self) -> dict[str, Tensor]:
        """Every tensor by neutral key, to read: without gradients, in the memory of the parameters."""
        return {key: parameter.detach() for key, parameter in self.tensors().items()}

    def parameters(self) -> Iterable[nn.Parameter]:
        """Every parameter."""
        for module in self.modules.values():
            yield from module.parameters()

    def count(self) -> int:
        """Number of scalars."""
        return sum(parameter.numel() for parameter in self.parameters())

    def learns(self) -> bool:
        """Whether a parameter requires gradients."""
        return any(parameter.requires_grad for parameter in self.parameters())


@dataclass(slots=True)
class Adapter(_Held):
    """One adapter on a model.

    Attributes:
        name: what it is called here.
        config: what it is.
        type: "text_task", "text_lang" or whatever the user said; None if nothing.
        missing, unexpected: neutral keys a checkpoint lacked, or had too many, when it was loaded without `strict`.
        packed: the note in place of its modules, while it has none (see `packing`).
        placed: its modules by site key, while it has them; `modules` unpacks it first.
        watch: what `packing` compares before it packs the adapter again; None if it never was packed.
    """

    config: AdapterConfig = None  # type: ignore[assignment]
    type: str | None = None
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    packed: Packed | None = None
    watch: tuple[int, str] | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The module at each site it has one, by site key."""
        while True:
            found, note = self.placed, self.packed  # in this order: a packed adapter loses its modules last
            if note is None:
                return found
            note.pool.unpack(note)

    def sites(self) -> list[str]:
        """The keys of the sites it has a module at."""
        note = self.packed
        return list(self.placed) if note is None else list(note.form.sites)

    def values(self) -> dict[str, Tensor]:
        """Every tensor by neutral key, to read: without gradients, in the memory of the parameters."""
        note = self.packed
        return _Held.values(self) if note is None or note.flat is None else note.tensors()

    def count(self) -> int:
        """Number of scalars."""
        note = self.packed
        return _Held.count(self) if note is None or note.flat is None else note.flat.numel()

    def freeze(self) -> None:
        """Let nothing of it learn."""
        if self.packed is not None:
            self.packed.form = self.packed.form.frozen()
        for parameter in (p for module in self.placed.values() for p in module.parameters()):
            parameter.requires_grad_(False)

    def learns(self) -> bool:
        """Whether a parameter requires gradients."""
        note = self.packed
        return _Held.learns(self) if note is None else any(note.form.learns)


@dataclass(slots=True)
class Fusion(_Held):
    """One fusion layer set: attention over the named adapters at every site where one of them is."""

    adapters: tuple[str, ...] = ()
    config: FusionConfig = None  # type: ignore[assignment]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
