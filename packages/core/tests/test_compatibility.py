"""Checkpoints whose numbers come from a defect of the release that wrote them: loading says so, or refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packages.core.tests.shrunken import shrunken

import adapterhub.core as ah
from adapterhub.core.dummy import dummy_inputs
from adapterhub.spec import CheckpointError, InvalidConfigError


def _saved(folder: Path, model_type: str, config: str) -> str:
    model = ah.init(shrunken(model_type))
    model.add_adapter("a", config=config)
    model.save_adapter(str(folder / "a"), "a", format="adapters")
    return str(folder / "a")


@pytest.mark.parametrize(
    ("model_type", "config", "told"),
    [
        ("albert", "houlsby[reduction_factor=4]", "exchanges"),
        ("gemma2", "pfeiffer[reduction_factor=4]", "last layer's norm"),
        ("gpt2", "ia3[alpha=2]", "by alpha"),
    ],
)
def test_numbers_that_differ_from_the_peer_are_said(tmp_path: Path, model_type: str, config: str, told: str) -> None:
    with pytest.warns(UserWarning, match=told):
        folder = _saved(tmp_path, model_type, config)
    with pytest.warns(UserWarning, match=told):
        ah.init(shrunken(model_type)).load_adapter(folder)
    assert any(told in note for note in ah.load_report().notes)


@torch.no_grad()
def test_albert_runs_as_there_under_compat(tmp_path: Path) -> None:
    """There h' = core(r, h) after attention, and the norm is of h' + h: by hand from the equations."""
    folder = _saved(tmp_path, "albert", "double_seq_bn[reduction_factor=4,output_adapter=False,mh_adapter=True]")
    model: Any = ah.init(shrunken("albert", num_hidden_layers=1))
    inputs = dummy_inputs(model, rows=2)
    model.load_adapter(folder, compat="adapters-1.3", set_active=True)
    for parameter in model.get_adapter("a").values():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    got = model(**inputs).last_hidden_state
    attention = model.encoder.albert_layer_groups[0].albert_layers[0].attention
    weights = {key.removeprefix("encoder.0.attention."): value for key, value in model.get_adapter("a").items()}

    def by_hand(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        """Put where the model adds r: x = s = r, h' = x + up(x), so h is replaced by h' + h - r."""
        r, h = seen.pop(), output
        inner = torch.nn.functional.silu(r @ weights["down.weight"].T + weights["down.bias"])
        return (r + inner @ weights["up.weight"].T + weights["up.bias"]) + h - r

    seen: list[torch.Tensor] = []
    model.active_adapters = None
    attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    attention.output_dropout.register_forward_hook(by_hand)
    torch.testing.assert_close(model(**inputs).last_hidden_state, got, rtol=0, atol=1e-5)
    with pytest.raises(CheckpointError, match="compat"):
        model.save_adapter(tmp_path / "b", "a")
    model.add_adapter("b", config="houlsby")
    with pytest.raises(InvalidConfigError, match="compat"):
        model.active_adapters = ah.Stack("a", "b")


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text"])
def test_gemma_runs_as_there_under_compat(tmp_path: Path, model_type: str) -> None:
    """There h is taken before the norm that ends the sublayer, and x = norm(h + r) with the last layer's norm: by hand."""
    folder = _saved(tmp_path, model_type, "pfeiffer[reduction_factor=4]")
    model: Any = ah.init(shrunken(model_type, num_hidden_layers=2))
    inputs = dummy_inputs(model, rows=2)
    layers = model.layers
    for number, layer in enumerate(layers):  # norms that differ from layer to layer
        layer.post_feedforward_layernorm.weight.fill_(0.5 + number)
    model.load_adapter(folder, compat="adapters-1.3", set_active=True)
    assert not [note for note in ah.load_report().notes if "norm" in note]
    generator = torch.Generator().manual_seed(1)
    for parameter in model.get_adapter("a").values():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    got = model(**inputs).last_hidden_state
    rows = model(**inputs, adapter_names=["a", None]).last_hidden_state
    model.active_adapters = None
    bare = model(**inputs).last_hidden_state
    weights = model.get_adapter("a")
    seen: list[torch.Tensor] = []
    for number, layer in enumerate(layers):

        def by_hand(norm: Any, args: Any, number: int = number) -> tuple[torch.Tensor]:
            h, r = args[0], seen.pop()
            x = layers[-1].post_feedforward_layernorm.forward(h + r)
            part = {key: weights[f"decoder.{number}.ffn.{key}"] for key in ("down.weight", "down.bias", "up.weight")}
            inner = torch.relu(x @ part["down.weight"].T + part["down.bias"])
            return (h + inner @ part["up.weight"].T + weights[f"decoder.{number}.ffn.up.bias"],)

        layer.pre_feedforward_layernorm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        layer.post_feedforward_layernorm.register_forward_pre_hook(by_hand)
    torch.testing.assert_close(model(**inputs).last_hidden_state, got, rtol=0, atol=1e-5)
    torch.testing.assert_close(rows, torch.stack([got[0], bare[1]]), rtol=0, atol=1e-5)
    with pytest.raises(CheckpointError, match="compat"):
        model.save_adapter(tmp_path / "b", "a")
    model.save_adapter(tmp_path / "c", "a", format="adapters")


@pytest.mark.parametrize(("model_type", "told"), [("deberta", "random bias"), ("xmod", "language modules")])
def test_adapters_trained_on_another_model_than_this_are_refused(tmp_path: Path, model_type: str, told: str) -> None:
    folder = _saved(tmp_path, model_type, "pfeiffer[reduction_factor=4]")
    model = ah.init(shrunken(model_type))
    with pytest.raises(CheckpointError, match=told):
        model.load_adapter(folder)
    assert model.load_adapter(folder, strict=False) == "a"


def test_an_unknown_compat_is_refused(tmp_path: Path) -> None:
    folder = _saved(tmp_path, "bert", "lora")
    with pytest.raises(InvalidConfigError, match=r"adapters-1\.3"):
        ah.init(shrunken("bert")).load_adapter(folder, compat="adapters-1.2")
