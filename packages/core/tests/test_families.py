"""Every family file holds for every model type it names; unknown models are discovered, or refused with a reason."""

from __future__ import annotations

import copy
import functools
import tempfile
from typing import Any

import pytest
import torch
from packages.core.tests.shrunken import shrunken
from packages.core.tests.tiny import tiny
from torch import nn

import adapterhub.core as ah
from adapterhub.core.dummy import dummy_inputs, run_small
from adapterhub.core.families import lay_out
from adapterhub.core.layout import legacy_hosts
from adapterhub.core.sites import SublayerSite
from adapterhub.spec import UnsupportedModelError
from adapterhub.spec.family import families_of, family_names, load_family

TYPES = [(name, model_type) for name in family_names() for model_type in load_family(name).model_types]
UNKNOWN = ["bloom", "cohere", "falcon", "gpt_neox", "opt", "mobilebert", "pegasus", "longformer", "granite", "rembert"]


def output_of(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(**inputs)
    tensor = found.last_hidden_state if hasattr(found, "last_hidden_state") else found.image_embeds + found.text_embeds
    assert isinstance(tensor, torch.Tensor)
    return tensor


def contract(model: Any) -> None:
    """Add, activate, train a step, stack, fuse, detach: each does what it should."""
    inputs = dummy_inputs(model, rows=2)
    before, keys = output_of(model, inputs), list(model.state_dict())
    ah.init(model)
    assert torch.equal(output_of(model, inputs), before)
    for name, config in {
        "a": "houlsby[reduction_factor=8]",
        "b": "pfeiffer[reduction_factor=8,mh_adapter=true]",
    }.items():
        model.add_adapter(name, config=config)
        for parameter in model.get_adapter(name).values():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.active_adapters = "a"
    assert not torch.equal(output_of(model, inputs), before)
    rows = output_of_rows(model, inputs, ["a", None])
    assert torch.allclose(rows[0], output_of(model, inputs)[0], atol=1e-4)
    model.add_adapter_fusion(["a", "b"])
    for setup in (ah.Stack("a", "b"), ah.Fuse("a", "b")):
        model.active_adapters = setup
        assert torch.isfinite(output_of(model, inputs)).all()
    save_and_load(model, inputs)
    model.train_adapter("a")
    (output,) = [value for value in [model(**inputs)] for value in [getattr(value, "last_hidden_state", None)]]
    if output is not None:
        output.pow(3).sum().backward()
        sites = {key.rsplit(".", 2)[0] for key, value in model.get_adapter("a").items() if value.grad is not None}
        assert sites, "no adapter got a gradient"
        assert all(p.grad is None for n, p in model.named_parameters() if "adapterhub" not in n)
    model.eval()
    ah.detach(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(output_of(model, inputs), before)


def save_and_load(model: Any, inputs: Any) -> None:
    """What is saved gives, on another model with the same weights, the same output to the last bit."""
    twin = ah.detach(copy.deepcopy(model))
    ah.init(twin)
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, "a")
        name = twin.load_adapter(folder, set_active=True)  # type: ignore[operator]
    model.active_adapters = name
    assert torch.equal(output_of(twin, inputs), output_of(model, inputs))


def output_of_rows(model: Any, inputs: Any, names: list[str | None]) -> torch.Tensor:
    return output_of(model, {**inputs, "adapter_names": names})


@pytest.mark.parametrize(("family", "model_type"), TYPES)
def test_family_files_hold(family: str, model_type: str) -> None:
    model = shrunken(model_type, **load_family(family).when)
    ah.init(model)  # verifies every site
    pool = ah.pool_of(model)
    assert pool.layout.family == family
    for layer in pool.layout.layers:
        sites = [site for site in pool.sites if isinstance(site, SublayerSite) and site.place.layer is layer]
        assert {"attention", "ffn"} <= {site.place.kind for site in sites}
        experts = hasattr(model.config, "num_experts_per_tok")
        assert {"o"} | (set() if experts else {"down"}) <= set(layer.linears), layer.linears
        assert {"q", "k", "v"} <= set(layer.linears) or "qkv" in layer.linears


@pytest.mark.parametrize("family", family_names())
def test_the_contract_on_each_family(family: str) -> None:
    spec = load_family(family)
    contract(shrunken(spec.model_types[0], **spec.when))


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_unknown_models_are_discovered(model_type: str) -> None:
    assert not families_of(model_type)
    model = shrunken(model_type)
    contract(model)
    ah.init(model)
    assert ah.pool_of(model).layout.family == "discovered"


def test_discovery_finds_what_the_family_files_say() -> None:
    from adapterhub.core.discovery import discover

    for model_type in ("bert", "bart", "t5", "gpt2", "llama", "vit", "albert"):
        model = shrunken(model_type)
        _, written = lay_out(model)
        found = discover(model)
        for one, other in zip(written.sublayers, found.sublayers, strict=True):
            assert (one.kind, one.output, one.norm) == (other.kind, other.output, other.norm), model_type


class _Odd(nn.Module):
    """A transformer nobody knows, whose residual is scaled."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.scale = scale
        self.config = type("Config", (), {"model_type": "odd", "vocab_size": 20, "is_encoder_decoder": False})()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        value = self.embed(input_ids)
        for layer in self.layers:
            value = value + self.scale * layer(value)
        return value


def test_what_cannot_be_adapted_is_refused_with_advice() -> None:
    with pytest.raises(UnsupportedModelError, match="family file"):
        ah.init(_Odd(0.5))
    with pytest.raises(UnsupportedModelError, match="bert"):
        ah.init(tiny("GPT2Model"), family="bert")
    with pytest.raises(UnsupportedModelError) as error:
        load_family("brt")
    assert error.value.suggestions[0] == "bert"


def test_paths_of_old_checkpoints() -> None:
    _, layout = lay_out(shrunken("bert"))
    hosts = legacy_hosts(layout)
    assert hosts["encoder.layer.1.output"] == "encoder.1.ffn"
    assert hosts["encoder.layer.0.attention.output"] == "encoder.0.attention"
    assert hosts["encoder.layer.0.attention.self.query"] == "encoder.0.q"
    _, layout = lay_out(shrunken("t5"))
    assert legacy_hosts(layout)["decoder.block.1.layer.2"] == "decoder.1.ffn"
    _, layout = lay_out(shrunken("vit"))
    hosts = legacy_hosts(layout)
    assert hosts["encoder.layer.1.output.output_adapters"] == "encoder.1.ffn"
    assert hosts["encoder.layer.1.attention.attention.query"] == "encoder.1.q"


def test_two_transformers_in_one() -> None:
    from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

    halves = [
        BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
        for _ in range(2)
    ]
    model: Any = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*halves)).eval()
    ids = torch.arange(3, 13).view(2, 5)
    before = model(input_ids=ids, decoder_input_ids=ids).logits
    ah.init(model)
    assert torch.equal(model(input_ids=ids, decoder_input_ids=ids).logits, before)
    model.add_adapter("a", config="houlsby[leave_out=[1]]")
    towers = {key.split(".ffn")[0] for key in model.get_adapter("a") if ".ffn." in key}
    assert towers == {"encoder.0", "decoder.0"}  # each half counts its layers from 0, as in checkpoints of adapters
    assert "decoder.0.cross_attention.down.weight" in model.get_adapter("a")
    model.active_adapters = "a"
    assert not torch.equal(model(input_ids=ids, decoder_input_ids=ids).logits, before)
    hosts = legacy_hosts(ah.pool_of(model).layout)
    assert "encoder.encoder.layer.0.output" in hosts and "decoder.bert.encoder.layer.1.output" in hosts


@torch.no_grad()
def test_a_multiplier_of_what_is_added_is_part_of_h() -> None:
    """Granite adds 0.25 · attention: the same as 1 · attention with an output projection a quarter as large."""
    ids, outputs = torch.arange(3, 13).view(2, 5), []
    for scale in (0.25, 1.0):
        model: Any = shrunken("granite", residual_multiplier=scale)
        for layer in model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.mul_(8 if scale == 0.25 else 2)
        ah.init(model)
        assert {place.scale for place in ah.pool_of(model).layout.sublayers} == {scale}
        for number, name in enumerate(("a", "b")):
            model.add_adapter(name, config="houlsby[reduction_factor=4,original_ln_before=True]")
            model.add_adapter(f"par_{name}", config="par_bn", original_ln_after=name == "a")
            for adapter in (name, f"par_{name}"):
                generator = torch.Generator().manual_seed(number)
                for parameter in model.get_adapter(adapter).values():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.add_adapter_fusion(["a", "b"], "static")
        for parameter in model._pool.fusions["a,b"].parameters():
            parameter.copy_(torch.eye(*parameter.shape) if parameter.dim() == 2 else torch.zeros_like(parameter))
        found = []
        for setup in (
            "a",
            ah.Stack("a", "b"),
            ah.Fuse("a", "b"),
            "par_a",
            "par_b",
            ah.BatchSplit("a", "par_b", batch_sizes=[1, 1]),
        ):
            model.active_adapters = setup
            found.append(model(input_ids=ids).last_hidden_state)
        outputs.append(found)
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_images_and_sound_come_in_several_shapes() -> None:
    """Where the plain small input does not run, others are tried: text alone, films, spectrograms by frame."""
    for kind, argument in (("llava", "input_ids"), ("videomae", "pixel_values"), ("wav2vec2-bert", "input_features")):
        model: Any = shrunken(kind)
        with torch.no_grad():
            given = run_small(model, rows=2)
        assert argument in given and given[argument].shape[0] == 2
        ah.init(model)
        model.add_adapter("a", config="pfeiffer[reduction_factor=4]")


def test_parallel_blocks_chain_whatever_was_hooked_first() -> None:
    """GPT-J: the feed-forward adapter's residual is r and what the attention's adapter gives."""
    outputs = []
    for first in ("ffn", "both"):
        model: Any = shrunken("gptj")
        ah.init(model)
        model.add_adapter("ffn", config="pfeiffer[reduction_factor=4]", init_weights_seed=1)
        model.add_adapter("both", config="pfeiffer[reduction_factor=4,mh_adapter=true]", init_weights_seed=2)
        for name in ("ffn", "both"):
            for parameter in model.get_adapter(name).values():
                parameter.data *= 20
        model.active_adapters = first
        with ah.AdapterSetup(ah.Stack("ffn", "both")), torch.no_grad():
            outputs.append(model(**dummy_inputs(model)).last_hidden_state)
    assert torch.equal(*outputs)


def test_models_that_outgrew_their_family_file_are_discovered() -> None:
    model: Any = shrunken("bert")
    for layer in model.encoder.layer:  # as a later release might: the same numbers in other modules
        layer.output.drop = layer.output.dropout
        del layer.output.dropout
        layer.output.forward = functools.partial(_output, layer.output)
    contract(model)
    ah.init(model)
    assert ah.pool_of(model).layout.family == "discovered"


def _output(module: Any, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
    return module.LayerNorm(module.drop(module.dense(hidden_states)) + input_tensor)
