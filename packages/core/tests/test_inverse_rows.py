"""Invertible adapters in one batch: each row is undone by the adapter that acted on it, before the vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, randomise, write_model
from packages.core.tests.tiny import close, ids, loss_of, tiny, with_adapters
from torch import Tensor

import adapterhub.core as ah
from adapterhub.core.operations import Operation

ROWS: dict[str, Any] = {
    "names": ["a", None, "c", "b"],
    "parallel": ah.Parallel("a", "b", "c"),
    "parts": ah.BatchSplit("b", "a", batch_sizes=[3, 1]),
    "stack inside": ah.Parallel(ah.Stack("a", "c"), "b"),
    "below": ah.Stack("a", ah.Parallel("b", "c")),
}


def model_of(kind: str, folder: Path) -> Any:
    write_model(folder, "gpt2" if kind == "gpt2" else "bert")
    if kind == "flexible":
        model: Any = ah.AutoAdapterModel.from_pretrained(folder)
        model.add_masked_lm_head("head")
    else:
        auto = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModelForMaskedLM
        torch.manual_seed(2)
        model = ah.init(auto.from_pretrained(folder))
    for number, (name, inv) in enumerate([("a", "nice"), ("b", "glow"), ("c", None)]):
        model.add_adapter(
            name,
            config="pfeiffer[reduction_factor=4]",
            inv_adapter=inv,
            inv_adapter_reduction_factor=2 if inv else None,
        )
        randomise(model.get_adapter(name).values(), seed=number)
    return model.eval()


def logits(model: Any, setup: Any, **options: Any) -> Tensor:
    model.set_active_adapters(setup)
    if hasattr(model, "heads"):
        model.active_head = "head"
    found: Tensor = model(**inputs(), **options).logits
    return found


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", ["static", "flexible", "gpt2"])
@torch.no_grad()
def test_each_row_is_undone_by_its_own_adapter(kind: str, rows: str, tmp_path: Path) -> None:
    model, setup = model_of(kind, tmp_path), ROWS[rows]
    one = {name: logits(model, name) for name in ("a", "b", "c", None)}
    assert not torch.allclose(one["a"], one["b"], atol=1e-2)
    if rows == "names":
        got = logits(model, None, adapter_names=setup)
        wanted = torch.stack([one[name][row] for row, name in enumerate(setup)])
    else:
        got = logits(model, setup)
        if rows == "parallel":
            wanted = torch.cat([one["a"], one["b"], one["c"]])
        elif rows == "parts":
            wanted = torch.cat([one["b"][:3], one["a"][3:]])
        elif rows == "stack inside":
            wanted = torch.cat([logits(model, ah.Stack("a", "c")), one["b"]])
        else:
            wanted = torch.cat([logits(model, ah.Stack("a", "b")), logits(model, ah.Stack("a", "c"))])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_heads_of_several_adapters_are_undone_row_by_row(tmp_path: Path) -> None:
    write_model(tmp_path)
    model = ah.AutoAdapterModel.from_pretrained(tmp_path).eval()
    for number, name in enumerate("ab"):
        model.add_adapter(name, config="pfeiffer+inv[reduction_factor=4]")
        model.add_masked_lm_head(name)
        randomise(model.get_adapter(name).values(), seed=number)
    one = {}
    for name in "ab":
        model.active_adapters = name
        one[name] = model(**inputs()).logits
    model.active_adapters = ah.Parallel("a", "b")
    torch.testing.assert_close(model(**inputs()).logits, torch.cat([one["a"], one["b"]]), rtol=0, atol=1e-5)
    model.active_adapters = ah.BatchSplit("a", "b", batch_sizes=[1, 3])
    torch.testing.assert_close(model(**inputs()).logits, torch.cat([one["a"][:1], one["b"][1:]]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_beams_are_undone_by_the_adapter_of_their_row(tmp_path: Path) -> None:
    model = model_of("gpt2", tmp_path)
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    together = model.generate(**inputs(3), adapter_names=["a", None, "b"], **options)
    for row, name in enumerate(["a", None, "b"]):
        model.active_adapters = name
        alone = model.generate(**{key: value[row : row + 1] for key, value in inputs(3).items()}, **options)
        width = alone.shape[1]
        assert torch.equal(together[row : row + 1, :width], alone)


#: invertible adapters of two makes, a and b, c and d, and a bottleneck alone
INVERTIBLE = {
    "a": "pfeiffer+inv[reduction_factor=4]",
    "b": "pfeiffer+inv[reduction_factor=4,inv_adapter_reduction_factor=5]",
    "c": "pfeiffer+inv[reduction_factor=4,inv_adapter=glow]",
    "d": "pfeiffer+inv[reduction_factor=4,inv_adapter=glow,inv_adapter_reduction_factor=5]",
    "e": "pfeiffer[reduction_factor=4]",
}
MIXED = [["a", "b"], ["b", "a", "a", "b"], ["c", "d", None, "c"], ["a", "c", None, "e", "d", "b"]]


def language_model(**configs: str) -> Any:
    return with_adapters(tiny("BertForMaskedLM"), **(configs or INVERTIBLE))


def in_rows(model: Any, names: Any) -> Operation:
    """What these rows do to the embedded text."""
    with ah.AdapterSetup(adapter_names=list(names)):
        found: Operation | None = ah.pool_of(model).embedding_site.operation()
    assert found is not None
    return found


@pytest.mark.parametrize("tokens", [1, 4, 20])
@pytest.mark.parametrize("names", MIXED, ids=lambda names: "-".join(map(str, names)))
@torch.no_grad()
def test_the_inverse_gives_back_what_each_row_was(names: list[str | None], tokens: int) -> None:
    operation = in_rows(language_model(), names)
    embedded = torch.randn(len(names), tokens, 32)
    adapted = operation(embedded, None)
    changed = [not torch.equal(one, other) for one, other in zip(adapted, embedded, strict=True)]
    assert changed == [name not in (None, "e") for name in names]
    torch.testing.assert_close(operation.inverse(adapted), embedded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("few", ["ab", "cd", "ac"])
@torch.no_grad()
def test_however_many_adapters_there_are_the_inverse_takes_as_many_products(few: str) -> None:
    many = {f"{name}{number}": INVERTIBLE[name] for number in range(8) for name in few}
    model = language_model(**{name: INVERTIBLE[name] for name in few}, **many)
    embedded, counts = torch.randn(16, 4, 32), []
    for names in ([*few] * 8, [*many]):
        operation = in_rows(model, names)
        operation.inverse(embedded)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
            operation.inverse(embedded)
        counts.append(sum(event.count for event in record.key_averages() if event.key == "aten::baddbmm"))
    assert counts[0] == counts[1] == (8 if few == "ac" else 4)


@pytest.mark.parametrize("names", MIXED, ids=lambda names: "-".join(map(str, names)))
def test_gradients_through_the_inverse_are_those_of_single_rows(names: list[str | None]) -> None:
    model = language_model()
    taken = [name for name in dict.fromkeys(names) if name]
    wanted = {f"{name}.{key}": p for name in taken for key, p in model.get_adapter(name).items()}
    assert any("embedding" in key for key in wanted)
    rows = ids(len(names))["input_ids"]
    with torch.inference_mode():  # leaves nothing behind that gradients cannot pass
        model(input_ids=rows, adapter_names=names)
    loss_of(model(input_ids=rows, adapter_names=names).logits).backward()
    together = {key: p.grad for key, p in wanted.items()}
    for p in wanted.values():
        p.grad = None
    for row, name in zip(rows, names, strict=True):
        model.active_adapters = name
        if name is not None:
            loss_of(model(input_ids=row[None]).logits).backward()
    for key, p in wanted.items():
        one = together[key]
        assert one is not None and p.grad is not None and p.grad.any(), key
        assert close(one, p.grad, 1e-4 * max(1.0, float(p.grad.abs().max()))), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
@torch.no_grad()
def test_rows_are_computed_in_the_type_they_are_alone(dtype: torch.dtype, autocast: bool) -> None:
    model, names = language_model(), ["a", "b", None, "c", "d", "a"]
    site = ah.pool_of(model).embedding_site
    for name in "abcd":
        site.find(name).to(dtype)
    embedded = torch.randn(len(names), 4, 32)
    operation = in_rows(model, names)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for together, alone in (
            (operation(embedded, None), lambda module, row: module(row)),
            (operation.inverse(embedded), lambda module, row: module.inverse(row)),
        ):
            assert together.dtype == embedded.dtype
            for row, before, name in zip(together.split(1), embedded.split(1), names, strict=True):
                wanted = before if name is None else alone(site.find(name), before)
                exact = dtype != torch.bfloat16 and not autocast
                torch.testing.assert_close(row, wanted, rtol=0 if exact else 0.05, atol=2e-5 if exact else 0.05)


@torch.no_grad()
def test_rows_without_an_adapter_come_out_to_the_bit() -> None:
    model = language_model()
    for name in "abcd":
        ah.pool_of(model).embedding_site.find(name).to(torch.bfloat16)
    embedded = torch.randn(4, 4, 32)
    embedded[1, 0, 0], embedded[1, 1, 0], embedded[1, 2, 0] = -0.0, float("inf"), float("nan")
    for names in (["a", None, "b", "e"], ["c", None, "c", "e"], ["a", None, "d", "e"]):
        operation = in_rows(model, names)
        for found in (operation(embedded, None), operation.inverse(embedded)):
            for row in (1, 3):
                assert torch.equal(found[row].view(torch.int32), embedded[row].view(torch.int32))


@torch.no_grad()
def test_new_weights_of_one_adapter_are_seen_there_and_back() -> None:
    model, names, embedded = language_model(), ["a", "b", None, "a"], torch.randn(4, 4, 32)
    operation = in_rows(model, names)
    before = operation(embedded, None), operation.inverse(embedded)
    ah.pool_of(model).embedding_site.find("b").g.up.weight.mul_(2)
    for old, new in zip(before, (operation(embedded, None), operation.inverse(embedded)), strict=True):
        changed = [not torch.equal(one, other) for one, other in zip(old, new, strict=True)]
        assert changed == [False, True, False, False]


@pytest.mark.parametrize(
    "names", [["a", "b", "a"], ["c", None, "d"], ["a", None, "c"]], ids=lambda n: "-".join(map(str, n))
)
@torch.no_grad()
def test_compiled_in_one_graph_each_row_is_undone_as_without(names: list[str | None]) -> None:
    torch._dynamo.reset()
    model = language_model()
    with ah.AdapterSetup(adapter_names=names):
        compiled = torch.compile(model, backend="eager", fullgraph=True)(**ids()).logits
        assert close(compiled, model(**ids()).logits, 1e-4)
    torch._dynamo.reset()
