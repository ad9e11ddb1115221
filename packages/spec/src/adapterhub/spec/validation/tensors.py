"""Whether the tensors of a native adapter fit its config: keys of SPEC.md 8.2, shapes that go together, sizes the config says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from adapterhub.spec.config import (
    AdapterConfig,
    BottleneckConfig,
    LoRAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ReftConfig,
    UnionConfig,
)
from adapterhub.spec.heads import HeadConfig
from adapterhub.spec.safetensors_header import Header, TensorInfo
from adapterhub.spec.validation.problem import Problem

__all__ = ["head_tensor_problems", "tensor_problems"]

#: dtypes adapter weights may have
FLOATS = frozenset(["F64", "F32", "F16", "BF16"])
MAX_TOLD = 20

#: kind of head → the keys its tensors may have; a static head has those of its class
_DENSE = re.compile(r"layers\.(?:dense\.[0-9]+|out)\.(?:weight|bias)")
_LANGUAGE = re.compile(r"(?:(?:dense|norm)\.[0-9]+|out)\.(?:weight|bias)")
_HEAD_KEYS = {
    **dict.fromkeys(("masked_lm", "causal_lm", "seq2seq_lm"), _LANGUAGE),
    "dependency_parsing": re.compile(r"(?:arcs|rels)\.weight"),
}

_Check = Callable[[Header, AdapterConfig, "int | None"], Iterator[Problem]]

_WORD = r"[A-Za-z0-9_]+"
_LINEAR = r"(?:weight|bias)"
_LAYER = rf"{_WORD}\.(?P<layer>[0-9]+)"
_PHM = r"(?:rule|rule_left|rule_right|left|right|weight|bias)"
_NETWORK = rf"(?:down|up)\.{_LINEAR}"
_GATED = rf"|gate\.{_LINEAR}"
_AT_LINEAR = rf"(?:{_LAYER}\.{_WORD}|module(?:\.{_WORD})+)"

#: method → the keys its tensors may have
_KEYS: dict[str, re.Pattern[str]] = {
    "bottleneck": re.compile(
        rf"(?P<site>{_LAYER}\.(?:attention|cross_attention|ffn))"
        rf"\.(?:(?:down|up)\.{_PHM}|(?:norm_before|norm_after)\.{_LINEAR}|scaling{_GATED})"
        rf"|{_WORD}\.embedding\.(?:f|g|s1|s2)\.{_NETWORK}"
        rf"|shared\.(?:(?:rule|rule_left|rule_right)|(?:down|up)\.(?:left|right|weight))"
    ),
    "lora": re.compile(rf"(?P<site>{_AT_LINEAR})\.(?:a|b|bias|magnitude{_GATED})"),
    "ia3": re.compile(rf"(?P<site>{_AT_LINEAR})\.(?:scale{_GATED})"),
    "prefix": re.compile(rf"shared\.{_WORD}\.(?:tokens|values|{_NETWORK})|{_LAYER}\.{_WORD}\.gate\.{_LINEAR}"),
    "prompt": re.compile(rf"{_WORD}\.(?:word_)?prompt\.tokens"),
    "reft": re.compile(rf"(?P<site>{_LAYER}\.layer)\.(?:prefix|suffix)\.(?:source\.{_LINEAR}|projection)"),
}


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
    for number, problem in enumerate(_all_problems(header, config, hidden_size)):
        if number == MAX_TOLD:
            yield Problem("", "and more problems of tensors")
            return
        yield problem


def head_tensor_problems(header: Header, head: HeadConfig) -> Iterator[Problem]:
    """What is wrong with the tensor table of `head.safetensors`, given the head's config (SPEC.md 6)."""
    if head.head_type == "static":
        return
    keys = _HEAD_KEYS.get(head.head_type, _DENSE)
    known = {tensor.name: tensor for tensor in header.tensors}
    for tensor in header.tensors[:MAX_TOLD]:
        if not keys.fullmatch(tensor.name):
            yield _wrong(tensor, f"is no key of a head of type {head.head_type}", "Keys are listed in SPEC.md 6.")
    if keys is not _DENSE:
        return  # of a language model's head nothing may be left but what is tied to the embeddings
    out = known.get("layers.out.weight")
    if out is None:
        yield Problem("", "there is no 'layers.out.weight'")
    elif len(out.shape) != 2:
        yield _wrong(out, f"is {list(out.shape)}, not [outputs, inputs]")
    elif head.num_labels is not None and head.head_type != "multiple_choice" and out.shape[0] != head.num_labels:
        yield _wrong(out, f"gives {out.shape[0]} numbers, the config has num_labels {head.num_labels}")


def _all_problems(header: Header, config: AdapterConfig, hidden_size: int | None) -> Iterator[Problem]:
    members = config.configs if isinstance(config, UnionConfig) else (config,)
    methods = sorted({member.method for member in members})
    for tensor in header.tensors:
        if not any(_KEYS[method].fullmatch(tensor.name) for method in methods):
            yield _wrong(tensor, f"is no key of {' or '.join(methods)}", "Keys are listed in SPEC.md 8.2.")
        if tensor.dtype not in FLOATS:
            yield _wrong(tensor, f"has dtype {tensor.dtype}; adapter weights are {', '.join(sorted(FLOATS))}")
        if tensor.elements == 0:
            yield _wrong(tensor, "has no elements")
    for member in members:
        check = _CHECKS.get(type(member))
        if check is not None:
            yield from check(header, member, hidden_size if len(members) == 1 else None)


def _bottleneck(header: Header, config: AdapterConfig, hidden_size: int | None) -> Iterator[Problem]:
    assert isinstance(config, BottleneckConfig)
    if config.phm_layer:
        return
    known = {tensor.name: tensor for tensor in header.tensors}
    towers = {name.partition(".")[0] for name in known if not name.startswith("shared.")}
    for down in header.tensors:
        match = _KEYS["bottleneck"].fullmatch(down.name)
        if match is None or match["site"] is None or not down.name.endswith(".down.weight"):
            continue
        up = known.get(f"{match['site']}.up.weight")
        if up is None:
            yield _wrong(down, f"has no {match['site']}.up.weight beside it")
            continue
        if len(down.shape) != 2 or down.shape != up.shape[::-1]:
            yield _wrong(down, f"is {list(down.shape)} and {up.name!r} {list(up.shape)}: not down [b, d] and up [d, b]")
            continue
        size, width = down.shape
        if hidden_size is not None and width != hidden_size and len(towers) == 1:
            yield _wrong(down, f"reads {width} numbers, the base model has {hidden_size}")
        # keys count layers within their tower, configs through all towers: with one tower these are the same
        layer = int(match["layer"]) if len(towers) == 1 else None
        wanted = _size(config, width, layer)
        if wanted is not None and size != wanted:
            yield _wrong(down, f"has a bottleneck of {size}, the config says {wanted}")
        if layer is not None and layer in config.leave_out:
            yield _wrong(down, f"is in layer {layer}, which the config leaves out")


def _size(config: BottleneckConfig, width: int, layer: int | None) -> int | None:
    if config.bottleneck_size is not None:
        return config.bottleneck_size
    factor = config.reduction_factor
    if isinstance(factor, dict):
        factor = None if layer is None else factor.get(str(layer), factor.get("default"))
    return None if factor is None else max(1, int(width // factor))


def _lora(header: Header, config: AdapterConfig, hidden_size: int | None) -> Iterator[Problem]:
    assert isinstance(config, LoRAConfig)
    known = {tensor.name: tensor for tensor in header.tensors}
    for a in header.tensors:
        match = _KEYS["lora"].fullmatch(a.name)
        if match is None or not a.name.endswith(".a"):
            continue
        b = known.get(f"{match['site']}.b")
        if b is None:
            yield _wrong(a, f"has no {match['site']}.b beside it")
        elif len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            yield _wrong(a, f"is {list(a.shape)} and {b.name!r} {list(b.shape)}: not a [r, in] and b [out, r]")
        elif not config.rank_pattern and a.shape[0] != config.r:
            yield _wrong(a, f"has rank {a.shape[0]}, the config says {config.r}")


def _rows(key: str, wanted: Callable[[AdapterConfig], int], what: str) -> _Check:
    pattern = re.compile(key)

    def check(header: Header, config: AdapterConfig, hidden_size: int | None) -> Iterator[Problem]:
        for tensor in header.tensors:
            if pattern.fullmatch(tensor.name) and (len(tensor.shape) != 2 or tensor.shape[0] != wanted(config)):
                yield _wrong(tensor, f"is {list(tensor.shape)}; the config's {what} is {wanted(config)}")

    return check


_CHECKS: dict[type[AdapterConfig], _Check] = {
    BottleneckConfig: _bottleneck,
    LoRAConfig: _lora,
    PrefixTuningConfig: _rows(
        rf"shared\.{_WORD}\.(?:tokens|values)", lambda c: int(getattr(c, "prefix_length", 0)), "prefix_length"
    ),
    PromptTuningConfig: _rows(
        rf"{_WORD}\.(?:word_)?prompt\.tokens", lambda c: int(getattr(c, "prompt_length", 0)), "prompt_length"
    ),
    ReftConfig: _rows(rf"{_LAYER}\.layer\.(?:prefix|suffix)\.projection", lambda c: int(getattr(c, "r", 0)), "rank"),
}


def _wrong(tensor: TensorInfo, message: str, hint: str = "") -> Problem:
    return Problem("", f"{tensor.name[:200]!r} {message}", hint)
