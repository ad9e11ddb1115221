"""A different adapter in every row gives each row what it gets alone, whatever the method, the order and the number of rows."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, loss_of, run, tiny, with_adapters

import adapterhub.core as ah
from adapterhub.core.mixed.bottlenecks import MixedRows
from adapterhub.spec import InvalidConfigError

CONFIGS = {
    "a": "pfeiffer[reduction_factor=4]",
    "b": "pfeiffer[reduction_factor=8]",
    "k": "lora[r=4]",
    "l": "lora[r=2,alpha=3,bias=True]",
    "m": "lora[r=3,use_gating=True]",
    "s": "ia3",
    "t": "ia3[alpha=2]",
    "p": "prefix_tuning[prefix_length=3,bottleneck_size=8]",
    "q": "prefix_tuning[prefix_length=5,flat=True]",
    "r": "prefix_tuning[prefix_length=2,flat=True,use_gating=True]",
    "o": "prefix_tuning[prefix_length=3,flat=True,use_gating=True,shared_gating=False]",
    "n": "lora[r=4,use_gating=True,bias=True]",
    "d": "lora[r=4,alpha=3,use_dora=True]",
    "e": "lora[r=2,alpha=8,use_dora=True,bias=True]",
    "u": "ia3[use_gating=True]",
    "f": "loreft[r=2,prefix_positions=1,suffix_positions=2]",
    "g": "loreft[r=3,prefix_positions=1,suffix_positions=2]",
    "h": "noreft[r=2,prefix_positions=1,suffix_positions=2]",
    "i": "loreft[r=2,tied_weights=True]",
    "j": "direft[r=2]",
    "v": "pfeiffer+inv[reduction_factor=4]",
    "w": "pfeiffer+inv[reduction_factor=4,inv_adapter_reduction_factor=5]",
    "x": "pfeiffer+inv[reduction_factor=4,inv_adapter=glow]",
    "y": "pfeiffer+inv[reduction_factor=4,inv_adapter=glow,inv_adapter_reduction_factor=5]",
    "z": "pfeiffer+inv[reduction_factor=4,non_linearity=gelu]",
    "P": "prompt[prompt_length=3]",
    "Q": "prompt[prompt_length=3]",
    "B": "prompt[prompt_length=3,combine=prefix_after_bos]",
    "C": "prompt[prompt_length=3,combine=prefix_after_bos]",
    "L": "prompt[prompt_length=5]",
}
#: rows of adapters that run as one, or as one for each make
TOGETHER = [
    "kl",
    "klmn",
    "mn",
    "de",
    "dekm",
    "stu",
    "pqro",
    "fgh",
    "klst",
    "fgij",
    "abks",
    "vw",
    "xy",
    "vwxy",
    "vxz",
    "avky",
]

ROWS = [
    ["a", "b", "a", "b", "b", "a"],
    ["a", None, "a", "b", None, "a"],
    ["b", "a", "a", "a", "a", "a"],
    ["k", "l"],
    ["k", "l", "k", "l", "l", "k"],
    ["l", None, "l", "k", None, "l"],
    ["l", "k", "k", "k", "k", "k"],
    ["k", "m", None, "l"],
    ["s", "t", None, "t"],
    ["s", "k", "t", "l", "a"],
    ["p", "q", "q", None, "p"],
    ["p", "r", "q"],
    ["o", "r", None, "p", "o"],
    ["n", "m", None, "n", "k"],
    ["d", "e", None, "d", "e"],
    ["d", "k", "n", None, "e", "l"],
    ["d", "e"],
    ["u", "s", None, "u", "t"],
    ["f", "g", None, "h", "f"],
    ["g", "f"],
    ["f", "i", "j", None, "a"],
    ["v", "w"],
    ["v", "w", None, "w", "v", None],
    ["w", "v", "v", "v", "v", "v"],
    ["x", "y"],
    ["y", None, "x", "x", None, "y"],
    ["v", "y", None, "w", "x", "z"],
    ["a", "v", "k", None, "x", "z", "v"],
    ["P", "Q", "Q"],
    ["B", "C", "B"],
    ["P", "B", "Q"],
]


@pytest.fixture(scope="module", params=["BertModel", "LlamaModel"])
def model(request: Any) -> Any:
    return with_adapters(tiny(request.param), **CONFIGS)


@pytest.mark.parametrize("tokens", [2, 7])
@pytest.mark.parametrize("names", ROWS, ids=lambda names: "-".join(map(str, names)))
def test_each_row_is_as_it_is_alone(model: Any, names: list[str | None], tokens: int) -> None:
    inputs = ids(len(names), tokens)
    alone = [run(model, {"input_ids": row[None]}, name) for row, name in zip(inputs["input_ids"], names, strict=True)]
    model.active_adapters = None
    together = run(model, inputs, adapter_names=names)
    assert close(together, torch.cat(alone), 5e-5)
    with pytest.raises(InvalidConfigError, match=f"{len(names)} rows|add up to {len(names)}"):
        run(model, ids(len(names) + 1, tokens), adapter_names=names)


@pytest.mark.parametrize(
    "names",
    [
        ["k", "l", "k", None],
        ["m", "n", "k", None],
        ["d", "e", "d", None],
        ["s", "t", None, "s"],
        ["u", "t", None, "u"],
        ["p", "q", "p", None],
        ["o", "r", "p", None],
        ["f", "g", "h", None],
        ["f", "j", "i", None],
        ["v", "w", "v", None],
        ["x", "y", None, "y"],
        ["v", "x", "z", None],
        ["P", "Q", "P", "Q"],
        ["B", "C", "B", "C"],
    ],
    ids=lambda names: "-".join(map(str, names)),
)
def test_gradients_are_those_of_single_rows(model: Any, names: list[str | None]) -> None:
    wanted = [p for name in dict.fromkeys(names) if name for p in model.get_adapter(name).values()]
    inputs = ids(4)["input_ids"]
    with torch.inference_mode():  # leaves nothing behind that gradients cannot pass
        model(input_ids=inputs, adapter_names=names)
    together = torch.autograd.grad(loss_of(model(input_ids=inputs, adapter_names=names).last_hidden_state), wanted)
    alone = [torch.zeros_like(p) for p in wanted]
    for row, name in zip(inputs, names, strict=True):
        if name is not None:
            model.active_adapters = name
            found = torch.autograd.grad(
                loss_of(model(input_ids=row[None]).last_hidden_state), wanted, allow_unused=True
            )
            alone = [sum_ if new is None else sum_ + new for sum_, new in zip(alone, found, strict=True)]
    model.active_adapters = None
    for one, other in zip(together, alone, strict=True):
        assert close(one, other, 1e-4 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize(
    "config",
    [
        "lora[r=4,dropout=0.5]",
        "ia3[dropout=0.5]",
        "ia3[dropout=0.5,use_gating=True]",
        "prefix_flat[dropout=0.5]",
        "loreft[dropout=0.5]",
    ],
)
def test_what_is_dropped_in_training_is_dropped_anew_each_time_and_for_nobody_else(config: str) -> None:
    model = with_adapters(tiny(), a=config, b=config)
    names = ["a", "b", None, "a"]
    still = run(model, ids(4), adapter_names=names)
    assert torch.equal(run(model, ids(4), adapter_names=names), still)
    for name in "ab":
        for module in ah.pool_of(model).get(name).modules.values():
            module.train()  # the adapters alone: the model's own dropout stays off
    first, second = (run(model, ids(4), adapter_names=names) for _ in range(2))
    dropped = [not torch.equal(one, other) for one, other in zip(first, second, strict=True)]
    assert dropped == [True, True, False, True]
    assert close(first[2], still[2])


def test_new_weights_of_one_adapter_are_seen(model: Any) -> None:
    names = ["k", "l", "k", None]
    before = run(model, ids(4), adapter_names=names)
    weight = next(iter(model.get_adapter("l").values()))
    with torch.no_grad():
        weight.mul_(2)
    after = run(model, ids(4), adapter_names=names)
    with torch.no_grad():
        weight.div_(2)
    changed = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert changed == [False, True, False, False]


@pytest.mark.parametrize("names", TOGETHER)
def test_however_many_adapters_there_are_a_site_computes_as_many_products(model: Any, names: str) -> None:
    counts = []
    for rows in ([*names] * 2, [*names] * 8):
        inputs = ids(len(rows), 2)
        run(model, inputs, adapter_names=rows)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
            run(model, inputs, adapter_names=rows)
        counts.append(sum(event.count for event in record.key_averages() if "mm" in event.key))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("names", ["PQ", "BC", "PLQ"])
def test_however_many_prompts_there_are_they_are_put_in_place_at_once(model: Any, names: str) -> None:
    site, calls = ah.pool_of(model).prompt_site(False), []
    embedded = torch.randn(8 * len(names), 2, 32)
    for times in (2, 8):
        with ah.AdapterSetup(adapter_names=[*names] * times):
            operation = site.operation()
            assert operation is not None
            operation(embedded[: times * len(names)], None)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
                operation(embedded[: times * len(names)], None)
        calls.append(sum(event.count for event in record.key_averages()))
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "names", [["P", "L", None, "Q"], ["L", "P"], ["B", None], ["B", "P"]], ids=lambda names: "-".join(map(str, names))
)
@torch.no_grad()
def test_shorter_prompts_and_rows_without_begin_with_zeros(model: Any, names: list[str | None]) -> None:
    site = ah.pool_of(model).prompt_site(False)
    embedded = torch.randn(len(names), 2, 32)
    alone = [row if name is None else site.find(name)(row) for row, name in zip(embedded.split(1), names, strict=True)]
    longest = max(row.shape[1] for row in alone)
    with ah.AdapterSetup(adapter_names=names):
        operation = site.operation()
        assert operation is not None
        together = operation(embedded, None)
    for row, one in zip(together.split(1), alone, strict=True):
        missing = longest - one.shape[1]
        assert torch.equal(row[:, missing:], one) and not row[:, :missing].any()


@torch.no_grad()
def test_a_prompt_no_row_takes_lengthens_none(model: Any) -> None:
    with ah.AdapterSetup(ah.BatchSplit("P", "L", "Q", batch_sizes=[2, 0, 1])):
        assert run(model, ids(3, 4)).shape[1] == 3 + 4


def test_weights_of_batches_long_gone_are_not_kept() -> None:
    model = with_adapters(tiny(), a="pfeiffer[reduction_factor=4]", b="pfeiffer[reduction_factor=8]")
    before = _stacks()
    for number in range(20):
        names = ["ab"[number >> bit & 1] for bit in range(5)]
        assert close(run(model, ids(5, 2), adapter_names=names), run(model, ids(5, 2), adapter_names=names), 0.0)
    sites = len(ah.pool_of(model).get("a").modules)
    assert _stacks() - before <= 10 * sites


def _stacks() -> int:
    gc.collect()
    return sum(type(thing) is MixedRows for thing in gc.get_objects())
