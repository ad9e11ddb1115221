"""Core computes what the spec's numerics vectors say: every switch, every preset, every method, one site at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.methods.ia3 import IA3
from adapterhub.core.methods.invertible import Glow, Nice
from adapterhub.core.methods.lora import LoRA
from adapterhub.core.methods.parameters import Given, Shapes
from adapterhub.core.methods.phm import SharedPHM
from adapterhub.spec.config import BottleneckConfig, parse_config

FOLDER = Path(__file__).parents[1] / "spec" / "conformance" / "numerics"


def cases(group: str) -> list[Any]:
    document = json.loads((FOLDER / f"{group}.json").read_text())
    return [pytest.param(case, id=case["name"]) for case in document["cases"]]


_LOADED: dict[str, dict[str, Tensor]] = {}


def tensors(group: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    if group not in _LOADED:
        _LOADED[group] = load_file(FOLDER / f"{group}.safetensors")
    return {key: _LOADED[group][stored] for key, stored in names.items()}


def given(weights: Mapping[str, Tensor], prefix: str = "") -> Given:
    return Given(weights, prefix, torch.device("cpu"), torch.float32, Shapes(), set(), [])  # type: ignore[arg-type]


def norm_of(case: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> nn.Module | None:
    if case["norm"] is None:
        return None
    norm = nn.LayerNorm(inputs["norm.weight"].shape, eps=case["norm"]["epsilon"])
    norm.load_state_dict({"weight": inputs["norm.weight"], "bias": inputs["norm.bias"]})
    return norm


def module_of(config: BottleneckConfig, weights: Mapping[str, Tensor], width: int, prefix: str = "") -> Bottleneck:
    assert config.bottleneck_size is not None
    shared = SharedPHM(config, width, config.bottleneck_size, given(weights, "shared.")) if config.phm_layer else None
    return Bottleneck(config, width, config.bottleneck_size, given(weights, prefix), shared).eval()


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("bottleneck"))
def test_bottleneck(case: dict[str, Any]) -> None:
    weights = tensors("bottleneck", case["weights"])
    inputs = tensors("bottleneck", case["inputs"])
    wanted = tensors("bottleneck", case["outputs"])
    config = parse_config(case["config"])
    assert isinstance(config, BottleneckConfig)
    norm = norm_of(case, inputs)
    source = given(weights)
    shared = SharedPHM(config, 8, 4, given(weights, "shared.")) if config.phm_layer else None
    module = Bottleneck(config, 8, 4, source, shared).eval()
    assert not source.missing
    adapted = module(inputs["h"], inputs["r"], norm)
    close(adapted, wanted["adapted"])
    output = adapted + inputs["r"]
    output = (norm(output) if norm is not None else output) if config.original_ln_after else adapted
    close(output, wanted["output"])


@torch.no_grad()
@pytest.mark.parametrize("case", cases("invertible"))
def test_invertible(case: dict[str, Any]) -> None:
    weights = tensors("invertible", case["weights"])
    x = tensors("invertible", case["inputs"])["x"]
    config = case["config"]
    kind = Nice if config["inv_adapter"] == "nice" else Glow
    module = kind(x.shape[-1], config["inv_adapter_reduction_factor"], config["non_linearity"], given(weights))
    wanted = tensors("invertible", case["outputs"])["y"]
    close(module(x), wanted)
    torch.testing.assert_close(module.inverse(wanted), x, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("case", cases("linear"))
def test_linear_maps(case: dict[str, Any]) -> None:
    weights = tensors("linear", case["weights"])
    inputs = tensors("linear", case["inputs"])
    linear = nn.Linear(8, 6, bias="bias" in inputs)
    linear.load_state_dict({key: value for key, value in inputs.items() if key != "x"})
    place = SimpleNamespace(inputs=8, outputs=6, start=0, stop=6, role="q", path="q")
    site = SimpleNamespace(place=place, linear=linear, layer=0)
    config = parse_config(case["config"])
    if case["config"]["method"] == "lora":
        lora = LoRA(config, site, config.r, config.alpha, given(weights)).eval()  # type: ignore[arg-type, attr-defined]
        found = lora(linear(inputs["x"]), inputs["x"])
    else:
        on_input = case["side"] == "input"
        ia3 = IA3(config, 8 if on_input else 6, 8, given(weights)).eval()  # type: ignore[arg-type]
        x = inputs["x"]
        found = linear(ia3(x, x)) if on_input else ia3(linear(x), x)
    close(found, tensors("linear", case["outputs"])["y"])
