"""Invertible adapters in one batch: each row is undone by the adapter that acted on it, before the vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, randomise, write_model
from torch import Tensor

import adapterhub.core as ah

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
