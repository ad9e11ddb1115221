"""Whether the tensors of a native adapter fit its config: kinds of keys, shapes that go together, sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapterhub.spec.config import AdapterConfig, BottleneckConfig, LoRAConfig
from adapterhub.spec.safetensors_header import Header, TensorInfo
from adapterhub.spec.validation.problem import Problem

__all__ = ["tensor_problems"]

#: dtypes adapter weights may have
FLOATS = frozenset(["F64", "F32", "F16", "BF16"])
_KEY = re.compile(r"[A-Za-z0-9_]+(?:[.:][A-Za-z0-9_]+)*")


def tensor_problems(header: Header, config: AdapterConfig, hidden_size: int | None) -> Iterator[Problem]:
    """What is wrong with the tensor table of `adapter.safetensors`, given the adapter's config.

    Args:
        header: the file's header.
        config: the adapter's config.
        hidden_size: width of the base model, where known.
    """
    if not header.tensors:
        yield Problem("", "there are no tensors")
        return
    for tensor in header.tensors:
        if not _KEY.fullmatch(tensor.name):
            yield Problem("", f"{tensor.name!r} is no neutral key (words joined by dots)", "Save in the native format.")
        if tensor.dtype not in FLOATS:
            yield Problem(
                "", f"{tensor.name!r} has dtype {tensor.dtype}; adapter weights are {', '.join(sorted(FLOATS))}"
            )
        if tensor.elements == 0:
            yield Problem("", f"{tensor.name!r} has no elements")
    if isinstance(config, BottleneckConfig) and not config.phm_layer:
        yield from _bottleneck(header, config, hidden_size)
    if isinstance(config, LoRAConfig):
        yield from _lora(header, config)


def _bottleneck(header: Header, config: BottleneckConfig, hidden_size: int | None) -> Iterator[Problem]:
    for down, up in _pairs(header, ".down.weight", ".up.weight"):
        if len(down.shape) != 2 or len(up.shape) != 2:
            yield Problem("", f"{down.name!r} and {up.name!r} are not both matrices")
            continue
        if down.shape != up.shape[::-1]:
            yield Problem("", f"{down.name!r} is {list(down.shape)}, {up.name!r} is {list(up.shape)}: not down and up")
        if hidden_size is not None and down.shape[1] != hidden_size:
            yield Problem("", f"{down.name!r} reads {down.shape[1]} numbers, the base model has {hidden_size}")
        if config.bottleneck_size is not None and down.shape[0] != config.bottleneck_size:
            yield Problem(
                "", f"{down.name!r} has a bottleneck of {down.shape[0]}, the config says {config.bottleneck_size}"
            )


def _lora(header: Header, config: LoRAConfig) -> Iterator[Problem]:
    if config.composition_mode != "add":
        return
    for a, b in _pairs(header, ".lora_a", ".lora_b"):
        if len(a.shape) == 2 and len(b.shape) == 2 and a.shape[0] != b.shape[1]:
            yield Problem("", f"{a.name!r} has rank {a.shape[0]}, {b.name!r} has {b.shape[1]}")


def _pairs(header: Header, one: str, other: str) -> Iterator[tuple[TensorInfo, TensorInfo]]:
    known = {tensor.name: tensor for tensor in header.tensors}
    for name, tensor in known.items():
        if name.endswith(one):
            partner = known.get(f"{name.removesuffix(one)}{other}")
            if partner is not None:
                yield tensor, partner
