"""AdapterFusion: the factored computation against the plain equations, temperature, attention maps, names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, loss_of, run, shake, tiny, with_adapters

import adapterhub.core as ah
from adapterhub.core import fusing
from adapterhub.spec import AdapterNotFoundError

KINDS = {
    "same": ["pfeiffer[reduction_factor=8]"] * 3,
    "sizes": [
        "pfeiffer[reduction_factor=4]",
        "pfeiffer[reduction_factor=16,non_linearity='gelu']",
        "pfeiffer[reduction_factor=2]",
    ],
    "scaled": ["pfeiffer[scaling=3]", "pfeiffer[scaling='channel']", "houlsby[mh_adapter=false,scaling='learned']"],
    "phm": ["compacter++[reduction_factor=4]", "pfeiffer", "compacter++[reduction_factor=4]"],
    "parallel": ["parallel[reduction_factor=8]", "parallel", "parallel"],
}
FUSIONS: list[Any] = [
    "dynamic",
    "static",
    {"residual_before": True},
    {"key": False, "query": False},
    {"query_before_ln": True, "value": False},
    {"temperature": True, "dropout_prob": 0.0},
]


def fused(kind: str, fusion: Any, model_class: str = "BertModel") -> Any:
    model = with_adapters(tiny(model_class), **dict(zip("abc", KINDS[kind], strict=True)))
    model.add_adapter_fusion(["a", "b", "c"], fusion)
    shake(model)
    model.active_adapters = ah.Fuse("a", "b", "c")
    return model


def plainly(monkeypatch: pytest.MonkeyPatch, model: Any, **options: Any) -> torch.Tensor:
    """The same setup by the plain equations."""
    with monkeypatch.context() as patch:
        patch.setattr(fusing, "_simple", lambda module: False)
        pool = ah.pool_of(model)
        pool._plans.clear()
        setup = model.active_adapters
        found = run(model, setup=setup, **options)
        kinds = {type(operation) for operation in pool.plan.operations if operation is not None}
        assert kinds == {fusing.PlainFusion}
        pool._plans.clear()
        model.active_adapters = None
    model.active_adapters = setup
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_factored_fusion_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, kind: str, fusion: Any) -> None:
    model = fused(kind, fusion)
    pool = ah.pool_of(model)
    assert any(isinstance(operation, fusing.FactoredFusion) for operation in pool.plan.operations)
    found = run(model)
    assert close(found, plainly(monkeypatch, model), 1e-4)
    with torch.enable_grad():  # without the matrices that are kept for inference
        model.train_adapter_fusion(ah.Fuse("a", "b", "c"))
        model.eval()
        assert close(model(**ids()).last_hidden_state, found, 1e-4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["same", "parallel"])
@pytest.mark.parametrize("fusion", [{}, {"residual_before": True}, {"query": False}], ids=str)
def test_dropout_of_scores_is_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, fusion: Any, kind: str, frozen: bool
) -> None:
    """Whole scores are dropped, with the parts that softmax would not see without dropout; in frozen fusions too."""
    model = fused(kind, {**fusion, "dropout_prob": 0.5}).double()
    outputs = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(fusing, "_simple", lambda module: False)
            ah.pool_of(model)._plans.clear()
            model.active_adapters = None
        model.train_adapter_fusion(ah.Fuse("a", "b", "c"))
        model.requires_grad_(not frozen)
        torch.manual_seed(1)
        outputs.append(model(**ids()).last_hidden_state)
    assert close(*outputs, 1e-9)
    assert not close(outputs[0], run(model.eval()))


def test_only_the_fusion_trains_and_gradients_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fused("sizes", "dynamic")
    gradients = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(fusing, "_simple", lambda module: False)
            ah.pool_of(model)._plans.clear()
            model.active_adapters = None
        model.train_adapter_fusion(ah.Fuse("a", "b", "c"))
        model.zero_grad()
        loss_of(model(**ids()).last_hidden_state).backward()
        named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert named and all("_fusion." in name for name in named)
        gradients.append(named)
    one, other = gradients
    # the key's bias adds the same to every score: softmax does not see it, and its true gradient is 0
    for name in other:
        reference = other[name]
        if not name.endswith("key.bias"):
            assert close(one[name], reference, 1e-3 * float(reference.abs().max())), name


def test_new_fusion_averages() -> None:
    model = with_adapters(tiny(), a="pfeiffer", b="pfeiffer")
    model.add_adapter_fusion(["a", "b"], {"query": False, "key": False, "value": True})
    with ah.fusion_attention() as maps:
        run(model, setup=ah.Fuse("a", "b"))
    assert list(maps) == [f"encoder.{layer}.ffn" for layer in range(3)]
    (attention,) = maps["encoder.0.ffn"]
    assert attention.shape == (3, 8, 2)
    assert close(attention.sum(-1), torch.ones(3, 8))


def test_a_fusion_with_temperature_trains() -> None:
    """Backward sees the temperature of its forward, though it fell since."""
    model = fused("same", {"temperature": True, "dropout_prob": 0.0})
    model.train_adapter_fusion(ah.Fuse("a", "b", "c"))
    for _ in range(2):
        loss_of(model(**ids()).last_hidden_state).backward()
    found = model._pool.fusions[next(iter(model._pool.fusions))].tensors()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for key, p in found.items() if "query" in key)


def test_temperature_falls_in_training_and_is_kept() -> None:
    model = fused("same", {"temperature": True})
    key = "encoder.0.ffn.temperature"
    fusion = ah.pool_of(model).fusions["a,b,c"]
    fusion.tensors()[key].data.fill_(50)
    run(model)
    assert fusion.tensors()[key].item() == 50
    model.train_adapter_fusion(ah.Fuse("a", "b", "c"))
    model(**ids())
    assert fusion.tensors()[key].item() == pytest.approx(49.95)
    assert not fusion.tensors()[key].requires_grad


def test_several_fusions_over_the_same_adapters() -> None:
    model = with_adapters(tiny(), a="pfeiffer", b="pfeiffer", c="pfeiffer")
    model.add_adapter_fusion(["a", "b"])
    model.add_adapter_fusion(["a", "b"], "static", name="other")
    model.add_adapter_fusion(["a", "b", "c"])
    shake(model)
    outputs = [
        run(model, setup=s) for s in (ah.Fuse("a", "b"), ah.Fuse("a", "b", name="other"), ah.Fuse("a", "b", "c"))
    ]
    assert not close(outputs[0], outputs[1]) and not close(outputs[0], outputs[2])
    assert model.adapter_fusions == ("a,b", "other", "a,b,c")
    with pytest.raises(AdapterNotFoundError):
        model.active_adapters = ah.Fuse("b", "a")
    model.delete_adapter_fusion("other")
    model.delete_adapter("c")
    assert model.adapter_fusions == ("a,b",)


def test_fusion_attends_only_over_adapters_that_are_at_a_site() -> None:
    model = with_adapters(tiny(), a="pfeiffer[leave_out=[1]]", b="houlsby")
    model.add_adapter_fusion(["a", "b"])
    shake(model)
    with ah.fusion_attention() as maps:
        run(model, setup=ah.Fuse("a", "b"))
    assert {key: maps[key][0].shape[-1] for key in maps} == {
        "encoder.0.attention": 1,
        "encoder.0.ffn": 2,
        "encoder.1.attention": 1,
        "encoder.1.ffn": 1,
        "encoder.2.attention": 1,
        "encoder.2.ffn": 2,
    }


def test_stacks_can_be_fused() -> None:
    model = with_adapters(tiny(), en="houlsby", a="pfeiffer", b="pfeiffer")
    block = ah.Fuse(ah.Stack("en", "a"), "b")
    model.add_adapter_fusion(block)
    shake(model)
    assert model.adapter_fusions == ("a,b",)
    assert not close(run(model, setup=block), run(model, setup=ah.Fuse("a", "b")))
