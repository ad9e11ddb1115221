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
from transformers import BertConfig, BertModel

import adapterhub.core as ah
from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.methods.ia3 import IA3
from adapterhub.core.methods.invertible import Glow, Nice
from adapterhub.core.methods.lora import LoRA
from adapterhub.core.methods.parameters import Given, Shapes
from adapterhub.core.methods.phm import SharedPHM
from adapterhub.core.methods.prefix import Prefix, PrefixNetwork
from adapterhub.core.methods.prompt import Prompt
from adapterhub.core.methods.reft import Reft
from adapterhub.core.pool import pool_of
from adapterhub.core.sites.linears import LinearPlace
from adapterhub.spec.composition import Fuse, parse_composition
from adapterhub.spec.config import BottleneckConfig, parse_config
from adapterhub.spec.fusion import parse_fusion

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
    place = LinearPlace("encoder.0.q", "q", "q", 0, None, 8, 6)
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


def layer_with(case: dict[str, Any], group: str, adapters: Mapping[str, Any]) -> tuple[Any, Any]:
    """A BERT of one layer whose feed-forward sublayer hands on its input, with the case's adapters and the case's norm.

    Returns the model and a function that runs the sublayer on (h, r), as many copies as it is told, and gives what the
    sublayer hands to the rest of the model.
    """
    inputs = tensors(group, case["inputs"])
    model = BertModel(
        BertConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=8,
            layer_norm_eps=case["norm"]["epsilon"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).eval()
    sublayer = model.encoder.layer[0].output
    nn.init.eye_(sublayer.dense.weight)
    nn.init.zeros_(sublayer.dense.bias)
    sublayer.LayerNorm.load_state_dict({"weight": inputs["norm.weight"], "bias": inputs["norm.bias"]})
    ah.init(model)
    pool = pool_of(model)
    for name, (config, weights) in adapters.items():
        keys = {key: key if key.startswith("shared.") else f"encoder.0.ffn.{key}" for key in weights}
        own = {keys[key]: value for key, value in weights.items()}
        pool.add(name, parse_config(config), tensors=own or None)  # without weights: an adapter that has no module here
    return model, lambda copies=1: sublayer(*(inputs[name].repeat(copies, 1, 1) for name in ("h", "r")))


def output_of(case: dict[str, Any], group: str, adapted: Tensor, last: Mapping[str, Any]) -> Tensor:
    """What the model goes on with, from the vector's h'."""
    inputs = tensors(group, case["inputs"])
    norm = norm_of(case, inputs)
    assert norm is not None and last.get("original_ln_after", True)
    r = inputs["r"]
    found: Tensor = norm(adapted + r.repeat(len(adapted) // len(r), 1, 1))
    return found


@torch.no_grad()
@pytest.mark.parametrize("case", [case for case in cases("composition") if case.values[0]["norm"]])
def test_composition_in_a_model(case: dict[str, Any]) -> None:
    weights = tensors("composition", case["weights"])
    adapters = {
        name: (config, {key.partition(".")[2]: value for key, value in weights.items() if key.startswith(f"{name}.")})
        for name, config in case["config"].items()
    }
    block = parse_composition(case["composition"])
    assert block is not None
    model, run = layer_with(case, "composition", adapters)
    for fusion in (one for one in block.walk() if isinstance(one, Fuse)):
        own = {
            f"encoder.0.ffn.{key.removeprefix('fusion.')}": weights[key] for key in weights if key.startswith("fusion.")
        }
        pool_of(model).add_fusion(fusion.fused_names(), parse_fusion(case["fusion"]), tensors=own, strict=False)
    model.active_adapters = block
    outputs = tensors("composition", case["outputs"])
    copies = len(outputs["adapted"]) // len(
        tensors("composition", case["inputs"])["h"]
    )  # Parallel repeats the batch before
    if "output" in outputs:
        close(run(copies), outputs["output"])
    else:
        last = case["config"][case["composition"]["children"][-1]]
        close(run(copies), output_of(case, "composition", outputs["adapted"], last))


@torch.no_grad()
@pytest.mark.parametrize("case", [case for case in cases("fusion") if case.values[0]["norm"]])
def test_fusion_in_a_model(case: dict[str, Any]) -> None:
    weights = tensors("fusion", case["weights"])
    adapters = {
        name: (
            case["adapter"],
            {key.partition(".")[2]: value for key, value in weights.items() if key.startswith(f"{name}.")},
        )
        for name in "012"
    }
    model, run = layer_with(case, "fusion", adapters)
    own = {
        f"encoder.0.ffn.{key.partition('.')[2]}": value for key, value in weights.items() if key.startswith("fusion.")
    }
    pool_of(model).add_fusion(["0", "1", "2"], parse_fusion(case["config"]), tensors=own)
    model.active_adapters = Fuse("0", "1", "2")
    wanted = tensors("fusion", case["outputs"])["adapted"]
    close(run(), output_of(case, "fusion", wanted, case["adapter"]))


@torch.no_grad()
@pytest.mark.parametrize("case", cases("states"))
def test_states(case: dict[str, Any]) -> None:
    weights = tensors("states", case["weights"])
    inputs = tensors("states", case["inputs"])
    wanted = tensors("states", case["outputs"])
    config: Any = parse_config(case["config"])
    if config.method == "reft":
        module = Reft(config, 8, given(weights)).eval()
        close(module(inputs["h"], inputs["mask"].long()), wanted["h"])
    elif config.method == "prompt":
        pool = SimpleNamespace()
        close(Prompt(config, 8, given(weights), lambda value, generator: pool)(inputs["x"]), wanted["y"])
    else:
        heads, layers = case["heads"], case["layers"]
        size = inputs["q"].shape[-1]
        site: Any = SimpleNamespace(heads=heads, size=size)
        network = PrefixNetwork(config, heads * size, layers, site, given(weights)).eval()
        for layer in range(layers):
            made = network.keys_and_values(layer).view(config.prefix_length, 2, heads, size).permute(1, 2, 0, 3)
            close(made, wanted["states"][2 * layer : 2 * layer + 2])
            prefix = Prefix(config, network, layer, heads * size, given(weights)).eval()
            both = prefix(inputs["q"], inputs.get("x"))[..., :-1].unflatten(-1, (2, heads, size)).permute(2, 0, 3, 1, 4)
            k, v = (torch.cat((part, inputs[name]), 2) for part, name in zip(both, ("k", "v"), strict=True))
            mask = nn.functional.pad(inputs["mask"].bool(), (config.prefix_length, 0), value=True)
            context = nn.functional.scaled_dot_product_attention(inputs["q"], k, v, attn_mask=mask[:, None, None])
            close(context, wanted[f"context.{layer}"])
