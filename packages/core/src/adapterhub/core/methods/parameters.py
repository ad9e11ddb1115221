"""Where the parameters of a new module come from: drawn afresh, taken from a checkpoint, or only described."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from adapterhub.spec.errors import CheckpointError

if TYPE_CHECKING:
    from adapterhub.core.sites import Site

__all__ = [
    "Draw",
    "Fresh",
    "Given",
    "Shapes",
    "Source",
    "fresh_sources",
    "kaiming_uniform",
    "normal",
    "ones",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

#: Fills a tensor in place with numbers from a generator.
Draw = Callable[[Tensor, torch.Generator], object]


class Source(Protocol):
    """Gives the parameters of one module by leaf name. `within` gives those of an inner module. An `optional` one may be
    absent in a checkpoint."""

    def __call__(self, leaf: str, shape: tuple[int, ...], draw: Draw, *, optional: bool = False) -> nn.Parameter: ...

    def within(self, prefix: str) -> Source: ...


class Fresh:
    """New parameters, drawn on the CPU (so that every device gets the same) by a generator of their own,
    never the global one.

    Args:
        generator: gives the source of randomness when it is needed.
        device: where the parameters go.
        dtype: their type.
    """

    def __init__(self, generator: Callable[[], torch.Generator], device: torch.device, dtype: torch.dtype) -> None:
        self.generator, self.device, self.dtype = generator, device, dtype

    def __call__(self, leaf: str, shape: tuple[int, ...], draw: Draw, *, optional: bool = False) -> nn.Parameter:
        if self.device.type == "meta":
            return nn.Parameter(torch.empty(shape, device="meta", dtype=self.dtype))
        value = torch.empty(shape, dtype=torch.float32)
        draw(value, self.generator())
        return nn.Parameter(value.to(self.device, self.dtype))

    def within(self, prefix: str) -> Fresh:
        return self


def fresh_sources(seed: int | None, dtype: torch.dtype | None) -> Callable[[Site], Fresh]:
    """New parameters for each site. With a seed every site draws from a generator of its own, else all from one that the
    global generator started (so `torch.manual_seed` before `add` makes runs repeatable and is otherwise left alone)."""
    started: dict[int, torch.Generator] = {}

    def generator_of(number: int) -> torch.Generator:
        found = started.get(number)
        if found is None:
            start = int(torch.randint(2**62, ()).item()) if seed is None else seed * 1_000_003 + number
            found = started[number] = torch.Generator().manual_seed(start)
        return found

    def source(site: Site) -> Fresh:
        device, own = site.home()
        return Fresh(partial(generator_of, 0 if seed is None else site.index), device, dtype or own)

    return source


class Given:
    """Parameters of a checkpoint, assigned as they are (moved to the device, and cast if a type is asked for).

    Args:
        tensors: by neutral key. Used keys are added to `used`.
        prefix: of the keys of this module, with the dot.
        device, dtype: where they go; `dtype=None` keeps the checkpoint's.
        otherwise: where parameters come from that the checkpoint lacks; `missing` lists their keys.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        prefix: str,
        device: torch.device,
        dtype: torch.dtype | None,
        otherwise: Source,
        used: set[str],
        missing: list[str],
    ) -> None:
        self.tensors, self.prefix, self.device, self.dtype = tensors, prefix, device, dtype
        self.otherwise, self.used, self.missing = otherwise, used, missing

    def __call__(self, leaf: str, shape: tuple[int, ...], draw: Draw, *, optional: bool = False) -> nn.Parameter:
        key = self.prefix + leaf
        value = self.tensors.get(key)
        if value is None:
            if not optional:
                self.missing.append(key)
            return self.otherwise(leaf, shape, draw)
        if tuple(value.shape) != shape:
            raise CheckpointError(
                f"The checkpoint's {key} has the shape {tuple(value.shape)}, but this model needs {shape}.",
                hint="The adapter was made for another model or another config.",
            )
        self.used.add(key)
        if value.device != self.device or (self.dtype is not None and value.dtype != self.dtype):
            value = value.to(self.device, self.dtype or value.dtype)
        if value.is_inference():  # such tensors never take part in training
            value = value.clone()
        return nn.Parameter(value, requires_grad=value.is_floating_point())

    def within(self, prefix: str) -> Given:
        return Given(
            self.tensors,
            self.prefix + prefix,
            self.device,
            self.dtype,
            self.otherwise.within(prefix),
            self.used,
            self.missing,
        )


class Shapes:
    """No numbers, only shapes: parameters on the meta device."""

    def __call__(self, leaf: str, shape: tuple[int, ...], draw: Draw, *, optional: bool = False) -> nn.Parameter:
        return nn.Parameter(torch.empty(shape, device="meta"))

    def within(self, prefix: str) -> Shapes:
        return self


def zeros(value: Tensor, generator: torch.Generator) -> None:
    """All 0."""
    value.zero_()


def ones(value: Tensor, generator: torch.Generator) -> None:
    """All 1."""
    value.fill_(1)


def normal(std: float) -> Draw:
    """N(0, std²)."""
    return lambda value, generator: value.normal_(0, std, generator=generator)


def uniform(bound: float) -> Draw:
    """U(-bound, bound)."""
    return lambda value, generator: value.uniform_(-bound, bound, generator=generator)


def truncated_normal(std: float, bound: float) -> Draw:
    """N(0, std²) cut off at ±bound."""
    return lambda value, generator: nn.init.trunc_normal_(value, 0, std, -bound, bound, generator=generator)


def kaiming_uniform(value: Tensor, generator: torch.Generator) -> None:
    """U(±sqrt(1 / fan_in)): He et al. (2015) with a = √5, as torch initialises linear maps."""
    value.uniform_(-1, 1, generator=generator).mul_(1 / math.sqrt(value.shape[1]))


def xavier_normal(value: Tensor, generator: torch.Generator) -> None:
    """N(0, 2 / (fan_in + fan_out)) for each matrix of a stack [n, in, out] (Glorot & Bengio, 2010)."""
    value.normal_(0, math.sqrt(2 / (value.shape[-1] + value.shape[-2])), generator=generator)


def xavier_uniform(value: Tensor, generator: torch.Generator) -> None:
    """U(±sqrt(6 / (fan_in + fan_out))) for each matrix of a stack [n, in, out]."""
    bound = math.sqrt(6 / (value.shape[-1] + value.shape[-2]))
    value.uniform_(-bound, bound, generator=generator)
