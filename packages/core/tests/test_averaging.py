"""Averages of adapters: linear, TIES, DARE, SVD, and what cannot be averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packages.core.tests.small_models import inputs, randomise, write_model

import adapterhub.core as ah
from adapterhub.core.merging import dare, low_rank_svd, ties
from adapterhub.spec.errors import AdapterNotFoundError, InvalidConfigError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "bert")


def with_adapters(base: Path, config: str, names: str = "abc") -> Any:
    model = ah.AutoAdapterModel.from_pretrained(base)
    for seed, name in enumerate(names):
        model.add_adapter(name, config=config)
        randomise(model.get_adapter(name).values(), seed)
    return model


@pytest.mark.parametrize("config", ["pfeiffer", "lora"])
def test_linear_is_the_weighted_mean_once_normalised(base: Path, config: str) -> None:
    model = with_adapters(base, config)
    model.average_adapter("mean", ["a", "b", "c"], weights=[1, 2, 1])
    model.average_adapter("again", {"a": 1, "b": 2, "c": 1})
    model.average_adapter("sum", ["a", "b"], weights=[1, -1], normalize_weights=False)
    for key, tensor in model.get_adapter("mean").items():
        a, b, c = (model.get_adapter(name)[key] for name in "abc")
        torch.testing.assert_close(tensor, (a + 2 * b + c) / 4)
        assert torch.equal(model.get_adapter("again")[key], tensor)
        torch.testing.assert_close(model.get_adapter("sum")[key], a - b)


def test_ties_keeps_the_largest_entries_that_agree_in_sign() -> None:
    one, two = torch.tensor([4.0, -3.0, 0.1, 2.0]), torch.tensor([2.0, 5.0, 0.2, -0.1])
    torch.testing.assert_close(ties([one, two], [0.5, 0.5], density=0.5), torch.tensor([3.0, 5.0, 0.0, 0.0]))
    torch.testing.assert_close(ties([one], [1.0], density=1.0), one)


def test_dare_keeps_the_expectation() -> None:
    tensor = torch.ones(200, 200)
    kept = dare([tensor], [1.0], density=0.25)
    assert set(kept.unique().tolist()) == {0.0, 4.0}
    assert kept.mean() == pytest.approx(1.0, abs=0.03)


def test_svd_gives_the_product_that_linear_does_not(base: Path) -> None:
    model = with_adapters(base, "lora[r=3,alpha=6]", "ab")
    model.average_adapter("exact", ["a", "b"], combine_strategy="svd", svd_rank=6)
    a, b, exact = (model._pool.adapters[name].modules for name in ("a", "b", "exact"))
    for key in a:
        wanted = (a[key].delta() + b[key].delta()) / 2
        torch.testing.assert_close(exact[key].delta(), wanted, atol=1e-5, rtol=1e-4)
    model.average_adapter("near", ["a", "b"], combine_strategy="svd")
    assert model.adapter_config("near").r == 3
    with pytest.raises(InvalidConfigError, match="LoRA"):
        with_adapters(base, "pfeiffer", "ab").average_adapter("x", ["a", "b"], combine_strategy="svd")


def test_the_svd_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    downs = [torch.randn(4, 20, generator=generator) for _ in range(3)]
    ups = [torch.randn(10, 4, generator=generator) for _ in range(3)]
    whole = sum(scale * up @ down for scale, up, down in zip((1.0, 0.5, -2.0), ups, downs, strict=True))
    down, up = low_rank_svd(downs, ups, [1.0, 0.5, -2.0], rank=5, target_scale=0.25)
    values = torch.linalg.svdvals(whole)
    assert (whole - 0.25 * up @ down).norm() == pytest.approx(float(values[5:].norm()), rel=1e-4)
    down, up = low_rank_svd(downs, ups, [1.0, 0.5, -2.0], rank=15)
    assert down.shape == (15, 20) and up.shape == (10, 15)
    torch.testing.assert_close(up @ down, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["linear", "ties", "dare"])
def test_every_strategy_runs_on_a_model(base: Path, strategy: str) -> None:
    model = with_adapters(base, "houlsby")
    model.average_adapter("mean", ["a", "b", "c"], combine_strategy=strategy, set_active=True)
    assert torch.isfinite(model(**inputs()).last_hidden_state).all()


def test_heads_can_be_averaged_with_their_adapters(base: Path) -> None:
    model = with_adapters(base, "pfeiffer", "ab")
    for name in "ab":
        model.add_classification_head(name)
    model.average_adapter("mean", ["a", "b"], average_head=True)
    heads = [model._heads.parameters(name) for name in ("a", "b", "mean")]
    for key in heads[0]:
        torch.testing.assert_close(heads[2][key], (heads[0][key] + heads[1][key]) / 2)


def test_what_cannot_be_averaged_is_refused_and_nothing_is_added(base: Path) -> None:
    model = with_adapters(base, "pfeiffer", "ab")
    model.add_adapter("other", config="houlsby")
    for arguments, options, said in (
        ((["a", "other"],), {}, "mh_adapter"),
        ((["a", "b"],), {"weights": [1]}, "2 weights"),
        ((["a", "b"],), {"weights": [1, -1]}, "sum to zero"),
        ((["a", "b"],), {"combine_strategy": "magic"}, "magic"),
        (([],), {}, "nothing to average"),
        ((["a", "b"],), {"combine_strategy": "ties", "density": 0}, "density"),
    ):
        with pytest.raises(InvalidConfigError, match=said):
            model.average_adapter("new", *arguments, **options)
    with pytest.raises(AdapterNotFoundError):
        model.average_adapter("new", ["a", "nowhere"])
    assert "new" not in model.adapters
