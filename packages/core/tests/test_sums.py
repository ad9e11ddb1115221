"""Where the model forms h + r for its norm, operations act on that sum: the same numbers as from h and r, in fewer steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, loss_of, tiny, with_adapters

import adapterhub.core as ah
from adapterhub.core.pool import pool_of
from adapterhub.core.sites import SublayerSite

CONFIGS = {
    "a": "pfeiffer[reduction_factor=4]",
    "b": "pfeiffer[reduction_factor=8,non_linearity=gelu,scaling=2.0]",
    "c": "pfeiffer[reduction_factor=4,use_gating=true]",
    "d": "pfeiffer[reduction_factor=4,ln_before=true,ln_after=true]",
    "both": "houlsby[reduction_factor=4]",
    "inside": "pfeiffer[reduction_factor=4,ln_after=true,adapter_residual_before_ln=true]",
    "beside": "par_bn[reduction_factor=4]",
}
SETUPS: dict[str, Any] = {
    "one": "a",
    "scaled": "b",
    "gated": "c",
    "norms": "d",
    "inside": "inside",
    "stack": ah.Stack("a", "b"),
    "stack with one that needs h": ah.Stack("a", "both"),
    "stack with a parallel one": ah.Stack("beside", "a"),
    "average": ah.Average("a", "b", weights=[0.2, 0.8]),
    "average that is no mean": ah.Average("a", "b", weights=[0.5, 0.9], normalize_weights=False),
    "split": ah.Split("a", "b", splits=[3, 4]),
    "batch": ah.BatchSplit("a", ah.Stack("b", "a"), batch_sizes=[1, 2]),
    "rows of two makes": ah.BatchSplit("a", "c", "d", batch_sizes=[1, 1, 1]),
    "parallel": ah.Parallel("a", "b"),
    "fuse": ah.Fuse("a", "b"),
}


def made() -> torch.nn.Module:
    model = with_adapters(tiny(), **CONFIGS)
    model.add_adapter_fusion(["a", "b"])
    return model


def by_h(model: torch.nn.Module) -> torch.nn.Module:
    for site in pool_of(model).sites:
        if isinstance(site, SublayerSite):
            site.sums = False
    return model


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS.keys())
def test_of_the_sum_comes_what_comes_of_its_parts(setup: Any) -> None:
    outcomes = []
    for model in (made(), by_h(made())):
        model.set_active_adapters(setup)
        model.eval()
        output = model(**ids(3, 7)).last_hidden_state
        loss_of(output).backward()
        held = (*pool_of(model).adapters.values(), *pool_of(model).fusions.values())
        grads = {f"{one.name} {key}": p.grad for one in held for key, p in one.tensors().items() if p.grad is not None}
        with torch.no_grad():
            again = model(**ids(3, 7)).last_hidden_state
        assert close(again, output, 1e-5)
        outcomes.append((output, grads))
    (one, grads), (other, expected) = outcomes
    assert close(one, other, 1e-5)
    assert grads.keys() == expected.keys()
    assert all(close(grads[key], expected[key], 1e-3 * max(1.0, float(expected[key].abs().max()))) for key in grads)


def test_the_usual_adapter_needs_one_hook_a_site() -> None:
    model = made()
    model.active_adapters = "a"
    hooked = [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooked == [f"encoder.layer.{layer}.output.LayerNorm" for layer in range(3)]


@pytest.mark.parametrize(
    "setup", ["a", "rows", ah.BatchSplit("a", "b", "a", "a", batch_sizes=[16, 16, 16, 16])], ids=str
)
def test_large_batches_written_over_give_what_small_ones_give(setup: Any) -> None:
    model = with_adapters(tiny(max_position_embeddings=64), **CONFIGS)
    text = ids(64, 40)
    options: dict[str, Any] = {}
    if setup == "rows":
        options = {"adapter_names": ["a", None, "b", "a"] * 16}
    else:
        model.active_adapters = setup
    kept: list[torch.Tensor] = []
    for layer in model.encoder.layer:  # what the model's own norm is given must not be changed under others' eyes
        layer.output.LayerNorm.register_forward_pre_hook(lambda module, args: kept.append(args[0]), prepend=True)
    with torch.no_grad():
        large = model(**text, **options).last_hidden_state
        copies = [value.clone() for value in kept]
        kept.clear()
        model(**text, **options)
        assert all(torch.equal(one, other) for one, other in zip(kept, copies, strict=True))
    assert text["input_ids"].numel() * 32 >= 1 << 16
    with_gradients = model(**text, **options).last_hidden_state
    assert close(large, with_gradients, 1e-5)
    with torch.inference_mode():
        assert torch.equal(model(**text, **options).last_hidden_state, large)


def test_vmap_over_large_batches_works_without_gradients() -> None:
    model = with_adapters(tiny(max_position_embeddings=64), **CONFIGS)
    model.active_adapters = "a"
    site = next(site for site in pool_of(model).sites if isinstance(site, SublayerSite) and site.handles)
    operation = site.operation()
    assert operation is not None
    value = torch.randn(3, 64, 40, 32)
    with torch.no_grad():
        mapped = torch.func.vmap(lambda one: operation(one, None))(value)
        assert close(mapped, torch.stack([operation(one, None) for one in value]), 1e-5)
