"""Adapters in every way a model may be run: checkpointing, generation, compilation, other number types, two devices."""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch._dynamo.utils
from packages.core.tests.tiny import close, ids, loss_of, run, shake, tiny, with_adapters

import adapterhub.core as ah

DECODERS = ["LlamaForCausalLM", "GPT2LMHeadModel", "BartForConditionalGeneration", "T5ForConditionalGeneration"]
CONFIGS = {
    "a": "pfeiffer[reduction_factor=4]",
    "b": "houlsby[reduction_factor=4]",
    "plus": "adapter_plus[reduction_factor=4,stochastic_depth=0]",
}


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("how", ["active", "setup", "rows"])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool, how: str) -> None:
    model = with_adapters(tiny(), **CONFIGS)
    model.train_adapter(ah.Stack("a", "b", "plus"))
    if how != "active":
        model.active_adapters = None

    def step() -> dict[str, torch.Tensor]:
        if how == "setup":
            with ah.AdapterSetup(ah.Stack("a", "b", "plus")):
                output = model(**ids())
        else:
            output = model(**ids(), **({"adapter_names": ["a", "plus", "b"]} if how == "rows" else {}))
        loss_of(output.last_hidden_state).backward()  # after the setup was left
        return gradients(model)

    expected = step()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    found = step()
    assert found.keys() == expected.keys() and len(found) >= 3 * 6
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    copy.deepcopy(model)


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: Any) -> Any:
    model = with_adapters(tiny(request.param), **CONFIGS)
    for parameter in (*model.get_adapter("a").values(), *model.get_adapter("b").values()):
        parameter.data *= 4  # so that each writes something else
    return model


def text(model: Any, setup: Any = None, **options: Any) -> torch.Tensor:
    model.active_adapters = setup
    found: torch.Tensor = model.generate(
        ids(2, 6)["input_ids"], max_new_tokens=6, min_new_tokens=6, do_sample=False, **options
    )
    return found


def test_generation(decoder: Any) -> None:
    alone = {name: text(decoder, name) for name in (None, "a", "b")}
    assert len({str(found.tolist()) for found in alone.values()}) == 3
    for name, expected in alone.items():
        assert torch.equal(text(decoder, name, use_cache=False), expected)
    for names in (["a", "b"], [None, "a"], ["b", "b"]):
        mixed = text(decoder, None, adapter_names=names)
        assert all(torch.equal(mixed[row], alone[name][row]) for row, name in enumerate(names))
    both = text(decoder, ah.Parallel("a", "b"))
    assert torch.equal(both, torch.cat([alone["a"], alone["b"]]))
    with ah.AdapterSetup("b"):
        assert torch.equal(
            decoder.generate(ids(2, 6)["input_ids"], max_new_tokens=6, min_new_tokens=6, do_sample=False), alone["b"]
        )


def test_beam_search(decoder: Any) -> None:
    alone = {name: text(decoder, name, num_beams=3) for name in (None, "a", "b")}
    mixed = text(decoder, None, adapter_names=["b", "a"], num_beams=3)
    assert torch.equal(mixed[0], alone["b"][0]) and torch.equal(mixed[1], alone["a"][1])
    several = text(decoder, ah.BatchSplit("a", "b", batch_sizes=[1, 1]), num_beams=3, num_return_sequences=2)
    assert torch.equal(several[0], alone["a"][0]) and torch.equal(several[2], alone["b"][1])
    both = text(decoder, ah.Parallel("a", "b"), num_beams=3)
    assert torch.equal(both, torch.cat([alone["a"], alone["b"]]))
    decoder.active_adapters = None


@pytest.mark.parametrize("name", ["BertModel", "LlamaModel"])
@torch.no_grad()
def test_compiled_once_for_adapters_of_one_shape(name: str) -> None:
    torch._dynamo.reset()
    model = with_adapters(tiny(name, num_hidden_layers=1), a="pfeiffer", b="pfeiffer", c="pfeiffer", d="houlsby")
    model.add_adapter_fusion(["a", "b"])
    shake(model)
    frames = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=frames, fullgraph=True)

    def same(setup: Any) -> int:
        model.active_adapters = setup
        assert close(compiled(**ids()).last_hidden_state, run(model), 1e-4)
        return frames.frame_count

    first = same("a")
    assert [same("b"), same("c"), same("a")] == [first] * 3, "no new graph for another adapter of the same shape"
    assert same(None) == first + 1, "hooks that went are noticed"
    assert same("b") == first + 1, "and those that come back are those of before"
    for setup in (ah.Fuse("a", "b"), ah.BatchSplit("a", "d", batch_sizes=[1, 2])):
        same(setup)
    with ah.AdapterSetup("c"):
        assert close(compiled(**ids()).last_hidden_state, run(model), 1e-4)
    torch._dynamo.reset()


def compiler() -> str | None:
    return next(
        (path for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name and (path := shutil.which(name))),
        None,
    )


@pytest.mark.skipif(compiler() is None, reason="inductor needs a C++ compiler, and there is none on the path")
def test_compiled_by_inductor() -> None:
    """Not only traced: run by torch's own backend. One graph a kind of setup, none for others of the same shapes."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = with_adapters(tiny(num_hidden_layers=1), a="pfeiffer", b="pfeiffer", c="pfeiffer")
    model.add_adapter_fusion(["a", "b"])
    shake(model)
    compiled = torch.compile(model, fullgraph=True)

    def graphs(setup: Any) -> int:
        model.active_adapters = setup
        with torch.no_grad():
            assert close(compiled(**ids()).last_hidden_state, run(model), 1e-4)
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    first = graphs("a")
    assert [graphs("b"), graphs("c")] == [first, first]
    assert graphs(ah.Fuse("a", "b")) == first + 1
    with ah.AdapterSetup(adapter_names=["a", None, "b"]), torch.no_grad():
        rows = compiled(**ids()).last_hidden_state
    assert close(rows, run(model, setup=None, adapter_names=["a", None, "b"]), 1e-4)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="with AdapterSetup"):
        compiled(**ids(), adapter_names=["a", None, "b"])
    torch._dynamo.reset()


@torch.no_grad()
def test_a_module_compiled_in_place_notices_hooks() -> None:
    torch._dynamo.reset()
    model = with_adapters(tiny(num_hidden_layers=1), a="pfeiffer")
    expected = run(model, setup="a")
    model.active_adapters = None
    model.compile(backend="eager")
    bare = model(**ids()).last_hidden_state
    model.active_adapters = "a"
    assert close(model(**ids()).last_hidden_state, expected)
    assert not close(bare, expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_number_types(dtype: torch.dtype) -> None:
    model = with_adapters(tiny("LlamaForCausalLM"), **CONFIGS)
    expected = run(model, setup=ah.Stack("a", "b"))
    with torch.autocast("cpu", dtype):
        assert run(model).dtype == dtype
    model.to(dtype)
    half = run(model)
    assert half.dtype == dtype and float((half.float() - expected).abs().max()) < 0.3
    assert {parameter.dtype for parameter in model.get_adapter("a").values()} == {dtype}
    model.add_adapter("fine", config="houlsby", dtype=torch.float32)
    assert run(model, setup=ah.Stack("a", "fine")).dtype == dtype
    assert run(model, adapter_names=["a", "fine", None]).dtype == dtype
    assert {parameter.dtype for parameter in model.get_adapter("fine").values()} == {torch.float32}


def test_autocast_trains() -> None:
    model = with_adapters(tiny(), **CONFIGS)
    model.train_adapter(ah.Stack("a", "b"))
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(model(**ids()).last_hidden_state.float()).backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in model.get_adapter("a").values())


def test_hidden_states_show_the_adapters() -> None:
    model = with_adapters(tiny(), **CONFIGS)
    bare = model(**ids(), output_hidden_states=True).hidden_states
    model.active_adapters = "a"
    adapted = model(**ids(), output_hidden_states=True)
    assert torch.equal(adapted.hidden_states[0], bare[0])
    assert not any(close(one, other) for one, other in zip(adapted.hidden_states[1:], bare[1:], strict=True))
    assert torch.equal(adapted.hidden_states[-1], adapted.last_hidden_state)


def test_adapters_are_made_where_their_layer_is() -> None:
    model: Any = tiny()
    model.encoder.layer[2].to("meta")
    ah.init(model)
    model.add_adapter("a", config="pfeiffer")
    devices = {key: value.device.type for key, value in model.get_adapter("a").items()}
    assert devices["encoder.0.ffn.down.weight"] == "cpu"
    assert devices["encoder.2.ffn.down.weight"] == "meta"
    model.to_empty(device="cpu")
    assert {value.device.type for value in model.get_adapter("a").values()} == {"cpu"}


def test_data_parallel_replicas_would_share_nothing_global() -> None:
    """`.to()` moves adapters with the model, and kept values are computed anew."""
    model = with_adapters(tiny(), a="compacter[reduction_factor=4]", b="compacter[reduction_factor=4]")
    expected = run(model, adapter_names=["a", "b", None])
    model.double()
    found = run(model, adapter_names=["a", "b", None])
    assert found.dtype == torch.float64
    assert close(found.float(), expected, 1e-4)
    model.float()
    assert close(run(model, adapter_names=["a", "b", None]), expected, 1e-4)
