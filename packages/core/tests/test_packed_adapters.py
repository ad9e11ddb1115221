"""Adapters of many small tensors are one tensor while nobody uses them, and nobody who looks can tell."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, loss_of, run, shake, tiny, with_adapters
from torch import Tensor, nn

import adapterhub.core as ah
from adapterhub.core.packing import tidy
from adapterhub.spec.errors import CheckpointError

CONFIGS = {
    "compacter": "compacter[reduction_factor=4]",
    "own rule": "compacter[reduction_factor=4,shared_phm_rule=False,learn_phm=False]",
    "shared weights": "compacter[reduction_factor=4,shared_W_phm=True]",
    "bottleneck": "houlsby[reduction_factor=4,ln_before=True,use_gating=True,scaling=learned]",
    "invertible": "pfeiffer+inv[reduction_factor=4]",
    "lora": "lora[r=2]",
    "dora": "lora[r=2,use_dora=True]",
    "ia3": "ia3",
    "prefix": "prefix_tuning[prefix_length=3,bottleneck_size=8]",
    "prompt": "prompt_tuning[prompt_length=3]",
    "reft": "loreft",
    "union": "prefix_tuning[prefix_length=3,bottleneck_size=8]|pfeiffer[reduction_factor=8]",
}


def packed(model: Any) -> list[str]:
    """The names of the adapters that are packed."""
    return [name for name, adapter in ah.pool_of(model).adapters.items() if adapter.packed is not None]


def values_of(model: Any, name: str = "a") -> dict[str, Tensor]:
    return {key: value.clone() for key, value in ah.pool_of(model).get(name).values().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def pack_again(model: Any, name: str = "a") -> bool:
    """Whether the adapter is packed after others came, once no kept plan speaks of it."""
    model.active_adapters = None
    pool = ah.pool_of(model)
    for key in [key for key in pool._plans if key[0] is not None]:
        del pool._plans[key]
    for number in range(4):
        model.add_adapter(f"other {number}", config="ia3", overwrite_ok=True)
    return name in packed(model)


@pytest.fixture
def model() -> Any:
    model = with_adapters(tiny(), a="compacter[reduction_factor=4]", b="compacter[reduction_factor=4]")
    pool = ah.pool_of(model)
    for _ in range(2):
        tidy(pool)
    return model


def parameters_alive() -> int:
    gc.collect()
    return sum(type(thing) is nn.Parameter for thing in gc.get_objects())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_many_that_wait_are_no_parameters_to_torch(config: str) -> None:
    model = ah.init(tiny())
    model.add_adapter("first", config=config)
    before = parameters_alive()
    for number in range(5):
        model.add_adapter(f"idle {number}", config=config)
    assert parameters_alive() <= before
    assert len(packed(model)) == 6


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_numbers_are_those_of_an_adapter_that_is_not_packed(config: str, monkeypatch: Any) -> None:
    models = []
    for large in (10_000, 0):
        monkeypatch.setattr("adapterhub.core.packing.LARGE", large)
        model = ah.init(tiny())
        torch.manual_seed(4)
        model.add_adapter("a", config=config)
        assert packed(model) == (["a"] if large else [])
        models.append(model)
    one, other = models
    assert equal(values_of(one), values_of(other))
    learns = [{name: p.requires_grad for name, p in model.named_parameters()} for model in models]
    assert list(learns[0]) == list(learns[1]) and learns[0] == learns[1]
    assert torch.equal(run(one, ids(), "a"), run(other, ids(), "a"))
    assert equal(dict(one.state_dict()), dict(other.state_dict()))


def test_large_tensors_stay_as_they_are() -> None:
    model = ah.init(tiny("BertModel", hidden_size=256, intermediate_size=256))
    model.add_adapter("a", config="pfeiffer[reduction_factor=4]")
    assert packed(model) == []


LOOKS: dict[str, Callable[[Any], Any]] = {
    "parameters": lambda model: list(model.parameters()),
    "modules": lambda model: list(model.modules()),
    "state_dict": lambda model: model.state_dict(),
    "children of a container": lambda model: dict(model.encoder.layer[0].adapterhub_ffn._modules),
    "attribute": lambda model: model.encoder.layer[0].adapterhub_ffn.a,
    "path": lambda model: model.get_submodule("encoder.layer.0.adapterhub_ffn.a"),
    "get_adapter": lambda model: model.get_adapter("a"),
    "apply": lambda model: model.apply(lambda part: None),
    "activation": lambda model: model.set_active_adapters("a"),
    "rows": lambda model: run(model, ids(2), adapter_names=["a", None]),
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "part": lambda model: model.encoder.layer[0].double(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_whoever_looks_finds_modules_with_the_same_numbers(model: Any, look: Callable[[Any], Any]) -> None:
    before = values_of(model)
    assert packed(model) == ["a", "b"]
    look(model)
    assert "a" not in packed(model)
    found = model.get_adapter("a")
    assert all(type(p) is nn.Parameter and p.is_leaf and p.requires_grad for p in found.values())
    assert len({p.untyped_storage().data_ptr() for p in found.values()}) == len(found)
    assert equal({key: p.detach().to(before[key].dtype) for key, p in found.items()}, before)


def test_what_concerns_others_leaves_it_packed(model: Any, tmp_path: Path) -> None:
    model.add_adapter("c", config="lora[r=2]")
    model.train_adapter("c")
    loss_of(model(**ids()).last_hidden_state).backward()
    model.eval()
    model.train()
    model.freeze_model(False)
    model.freeze_model()
    model.save_adapter(tmp_path / "a", "a")
    model.save_adapter(tmp_path / "c", "c")
    model.load_adapter(tmp_path / "a", load_as="d")
    model.load_adapter(tmp_path / "c", load_as="e")
    model.adapter_summary()
    model.active_adapters = ah.Parallel("c", "e")
    model(**ids())
    model.to(torch.float64).to(torch.float32)
    model.average_adapter("f", ["a", "d"], weights=[0.5, 0.5])
    model.delete_adapter("e")
    assert set(packed(model)) >= {"a", "b", "d"}
    assert equal(values_of(model, "a"), values_of(model, "d"))


def test_generation_leaves_it_packed() -> None:
    model = ah.init(tiny("GPT2LMHeadModel"))
    model.add_adapter("a", config="lora[r=2]")
    model.add_adapter("b", config="lora[r=2]")
    model.active_adapters = "a"
    model.generate(**ids(2, 3), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert packed(model) == ["b"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_moves_with_the_model(model: Any, dtype: torch.dtype) -> None:
    before = values_of(model)
    model.to(dtype)
    assert packed(model) == ["a", "b"]
    assert equal(values_of(model), {key: value.to(dtype) for key, value in before.items()})
    assert {p.dtype for p in model.get_adapter("a").values()} == {dtype}
    assert run(model, ids(), "a").dtype == dtype


def test_a_model_inside_another_moves_it_too(model: Any) -> None:
    outer = nn.ModuleDict({"inner": model}).double()
    assert packed(model) == ["a", "b"]
    assert values_of(outer["inner"])["shared.rule"].dtype == torch.float64


def test_training_another_adapter_freezes_it(model: Any) -> None:
    model.train_adapter("b")
    assert packed(model) == ["a"]
    assert not any(p.requires_grad for p in model.get_adapter("a").values())
    assert all(p.requires_grad for p in model.get_adapter("b").values())


def test_it_takes_the_mode_of_the_model(model: Any) -> None:
    model.train()
    assert packed(model) == ["a", "b"]
    assert all(part.training for part in model.encoder.layer[0].adapterhub_ffn.a.modules())


def test_what_nobody_holds_any_longer_is_packed_again_with_what_it_learned(model: Any) -> None:
    fresh = values_of(model)
    model.train_adapter("a")
    optimiser = torch.optim.SGD(model.get_adapter("a").values(), lr=0.1)
    loss_of(model(**ids()).last_hidden_state).backward()
    optimiser.step()
    optimiser.zero_grad()
    model.eval()
    learned, output = values_of(model), run(model)
    assert not pack_again(model)  # the optimiser holds it
    del optimiser
    assert pack_again(model)
    assert equal(values_of(model), learned) and not equal(learned, fresh)
    assert torch.equal(run(model, ids(), "a"), output)
    assert all(p.requires_grad for p in model.get_adapter("a").values())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_method_is_packed_again_after_use(config: str) -> None:
    model = with_adapters(tiny(), a=config)
    wanted = run(model, ids(), "a")
    together = run(model, ids(), adapter_names=["a", None, "a"])
    assert pack_again(model)
    assert torch.equal(run(model, ids(), "a"), wanted)
    assert torch.equal(run(model, ids(), adapter_names=["a", None, "a"]), together)
    assert pack_again(model)


HOLDS: dict[str, Callable[[Any], Any]] = {
    "parameters": lambda model: model.get_adapter("a"),
    "one parameter": lambda model: model.get_adapter("a")["shared.rule"],
    "its numbers": lambda model: model.get_adapter("a")["shared.rule"].detach(),
    "a view": lambda model: model.get_adapter("a")["shared.rule"][0],
    "an array": lambda model: model.get_adapter("a")["shared.rule"].detach().numpy(),
    "a graph": lambda model: (model.get_adapter("a")["shared.rule"] * 2).sum(),
    "a weak reference": lambda model: weakref.ref(model.get_adapter("a")["shared.rule"]),
    "a module": lambda model: model.encoder.layer[1].adapterhub_ffn.a.up,
    "a table": lambda model: model.encoder.layer[1].adapterhub_ffn.a.up._parameters,
    "a walk": lambda model: _started(model.encoder.layer[1].adapterhub_ffn.a.named_parameters()),
    "an optimiser": lambda model: torch.optim.AdamW([model.get_adapter("a")["shared.rule"]]),
    "the modules by site": lambda model: ah.pool_of(model).get("a").modules,
}


def _started(walk: Any) -> Any:
    next(walk)
    return walk


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_what_somebody_holds_stays(model: Any, hold: Callable[[Any], Any]) -> None:
    held = hold(model)
    assert not pack_again(model)
    del held
    assert pack_again(model)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a hook": lambda module: module.up.register_forward_hook(lambda *_: None),
    "a hook on a parameter": lambda module: module.up.bias.register_hook(lambda gradient: None),
    "an attribute": lambda module: setattr(module, "note", "mine"),
    "an attribute of a parameter": lambda module: setattr(module.up.bias, "note", "mine"),
    "a gradient": lambda module: module.up.bias.sum().backward(),
    "another method": lambda module: module.__dict__.update(forward=module.forward),
    "a part of its own": lambda module: module.add_module("more", nn.Linear(2, 2)),
    "another shape": lambda module: setattr(module.up, "left", nn.Parameter(torch.zeros(1))),
    "another mode": lambda module: module.train(not module.training),
    "a buffer": lambda module: module.register_buffer("seen", torch.zeros(1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_somebody_changed_stays(model: Any, change: Callable[[Any], Any]) -> None:
    change(model.encoder.layer[1].adapterhub_ffn.a)
    assert not pack_again(model)


def test_other_numbers_in_a_parameter_are_packed_with_it(model: Any) -> None:
    module = model.encoder.layer[1].adapterhub_ffn.a
    module.up.bias.data = torch.full_like(module.up.bias, 3.0)
    module.up._parameters["left"] = nn.Parameter(torch.full_like(module.up.left, 2.0), requires_grad=False)
    del module
    assert pack_again(model)
    found = model.get_adapter("a")
    assert set(found["encoder.1.ffn.up.bias"].tolist()) == {3.0}
    assert set(found["encoder.1.ffn.up.left"].flatten().tolist()) == {2.0}
    assert not found["encoder.1.ffn.up.left"].requires_grad and found["encoder.1.ffn.up.right"].requires_grad


def test_a_checkpoint_is_packed_as_it_comes_and_still_looked_at(model: Any, tmp_path: Path) -> None:
    model.save_adapter(tmp_path / "a", "a")
    before = parameters_alive()
    model.load_adapter(tmp_path / "a", load_as="c")
    assert "c" in packed(model) and parameters_alive() <= before
    assert equal(values_of(model, "a"), values_of(model, "c"))
    assert torch.equal(run(model, ids(), "a"), run(model, ids(), "c"))
    pool, tensors = ah.pool_of(model), values_of(model, "a")
    config = model.adapter_config("a")
    with pytest.raises(CheckpointError, match="missing"):
        pool.add("d", config, tensors={key: value for key, value in tensors.items() if key != "shared.rule"})
    with pytest.raises(CheckpointError, match="unexpected"):
        pool.add("d", config, tensors={**tensors, "more": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="shape"):
        pool.add("d", config, tensors={**tensors, "shared.rule": torch.zeros(1)})
    mixed = pool.add("d", config, tensors={**tensors, "shared.rule": tensors["shared.rule"].double()})
    assert mixed.values()["shared.rule"].dtype == torch.float64 and mixed.packed is None
    half = pool.add("e", config, tensors=tensors, dtype=torch.bfloat16)
    assert {value.dtype for value in half.values().values()} == {torch.bfloat16}


def test_packed_ones_are_replaced_and_deleted_as_others_are(model: Any) -> None:
    stale = ah.pool_of(model).get("a")
    model.add_adapter("a", config="ia3", overwrite_ok=True)
    model.delete_adapter("b")
    assert packed(model) == ["a"]
    assert stale.modules and "shared.rule" in stale.tensors()  # who held the old one still has it
    assert not any("adapterhub_ffn" in name for name, _ in model.named_parameters())
    assert set(model.get_adapter("a")) == set(ah.pool_of(model).shapes("ia3"))
    container = model.encoder.layer[0].adapterhub_k
    ah.detach(model)
    assert not any("adapterhub" in name for name, _ in model.named_modules())
    assert list(container.children()) == [None] or not list(container.children())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_model_have_adapters_of_their_own(model: Any, again: Callable[[Any], Any]) -> None:
    other = again(model)
    shake(other)
    wanted = run(model, ids(), "a")
    assert not close(run(other, ids(), "a"), wanted, 1e-3)
    assert pack_again(other) and pack_again(model)
    assert torch.equal(run(model, ids(), "a"), wanted)


@pytest.mark.parametrize("large", [10_000, 0], ids=["packed", "not packed"])
def test_what_comes_in_inference_mode_can_be_trained(model: Any, large: int, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("adapterhub.core.packing.LARGE", large)
    model.save_adapter(tmp_path / "a", "a")
    with torch.inference_mode():
        run(model, ids(), "a")
        model.add_adapter("c", config="compacter[reduction_factor=8]")
        run(model, ids(), "c")
        model.load_adapter(tmp_path / "a", load_as="d")
        run(model, ids(), "d")
    for name in "acd":
        model.train_adapter(name)
        loss_of(model(**ids()).last_hidden_state).backward()
        assert all(p.grad is not None for p in model.get_adapter(name).values())


def test_threads_that_look_at_once_see_the_same_modules(model: Any) -> None:
    wanted = {name: run(model, ids(), adapter_names=[name] * 3) for name in "ab"}
    wrong: list[str] = []

    def serve(name: str, number: int) -> None:
        for turn in range(25):
            if turn % 5 == number % 5:
                model.add_adapter(f"{name}{number}", config="ia3", overwrite_ok=True)
            ah.pool_of(model)._plans.clear()
            if not torch.equal(run(model, ids(), adapter_names=[name] * 3), wanted[name]):
                wrong.append(name)
            if model.get_adapter(name)["shared.rule"] is not model.get_adapter(name)["shared.rule"]:
                wrong.append(f"{name}: two parameters")

    model.active_adapters = None
    threads = [threading.Thread(target=serve, args=("ab"[number % 2], number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
