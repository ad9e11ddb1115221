"""Compositions compute what they say, nested ones too."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, loss_of, run, shake, tiny, with_adapters

import adapterhub.core as ah
from adapterhub.spec import InvalidConfigError

CONFIGS = {
    "a": "pfeiffer[reduction_factor=4]",
    "b": "houlsby[reduction_factor=8]",
    "c": "parallel[reduction_factor=4,non_linearity='gelu']",
    "d": "adapter_plus[reduction_factor=8]",
    "e": "pfeiffer[reduction_factor=2,leave_out=[0,1]]",
    "f": "compacter[reduction_factor=4]",
    "g": "bapna[reduction_factor=4]",
}


@pytest.fixture(scope="module", params=["BertModel", "LlamaModel"])
def model(request: Any) -> Any:
    model = with_adapters(tiny(request.param), **CONFIGS)
    for names in (["a", "b"], ["a", "c", "f"], ["a", "e"]):
        model.add_adapter_fusion(names)
    shake(model)
    return model


def each(model: Any, setups: list[Any], rows: int = 1) -> torch.Tensor:
    """The output of every setup on its own rows, run alone."""
    inputs = ids(len(setups) * rows)
    parts = []
    for number, setup in enumerate(setups):
        cut = {name: value[number * rows : (number + 1) * rows] for name, value in inputs.items()}
        parts.append(run(model, cut, setup))
    model.active_adapters = None
    return torch.cat(parts)


def test_rows_with_adapters_of_every_make(model: Any) -> None:
    names = ["a", None, "b", "c", "d", "e", "f", "g", "a", "b", None, "c"]
    expected = each(model, names)
    assert close(run(model, ids(12), adapter_names=names), expected)
    bare = run(model, ids(12))
    assert torch.equal(run(model, ids(12), adapter_names=["__base__"] * 12), bare)
    mixed = run(model, ids(12), adapter_names=names)
    assert torch.equal(mixed[1], run(model, ids(12), adapter_names=[None] * 12)[1]), "bare rows keep every bit"
    with pytest.raises(InvalidConfigError, match="12 rows"):
        run(model, ids(5), adapter_names=names)


@pytest.mark.parametrize("names", [["a", "a", "g", "g"], ["a", "g", "a", "g"], ["a", "g"], ["b", "b", "b", "c"]])
def test_rows_in_any_order(model: Any, names: list[str]) -> None:
    assert close(run(model, ids(len(names)), adapter_names=names), each(model, names))


def test_batch_split_and_parallel(model: Any) -> None:
    split = ah.BatchSplit("a", "b", batch_sizes=[2, 1])
    rows = each(model, ["a", "a", "b"])
    assert close(run(model, ids(3), split), rows)
    with pytest.raises(InvalidConfigError, match="batch"):
        run(model, ids(4), split)
    parallel = run(model, ids(3), ah.Parallel("a", "b", "c"))
    assert parallel.shape[0] == 9
    for number, name in enumerate("abc"):
        assert close(parallel[3 * number : 3 * number + 3], run(model, ids(3), name))


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "RobertaModel", "DistilBertModel"])
def test_parallel_repeats_the_batch_where_it_first_differs(name: str) -> None:
    model = with_adapters(
        tiny(name), a="pfeiffer", b="houlsby", c="pfeiffer[leave_out=[0,1]]", d="pfeiffer[leave_out=[0]]"
    )
    inputs = ids(3) | {"attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 8])}
    for names in (["a", "b"], ["a", "d"], ["c", "d"], ["b", "a", "c"]):
        together = run(model, inputs, ah.Parallel(*names))
        for number, adapter in enumerate(names):
            assert close(together[3 * number : 3 * number + 3], run(model, inputs, adapter))
    model.active_adapters = ah.Parallel("a", "b")
    if name == "BertForSequenceClassification":
        labels = torch.tensor([0, 1, 0])
        expected = sum(model_loss(model, inputs | {"labels": labels}, adapter) for adapter in ("a", "b")) / 2
        assert model_loss(model, inputs | {"labels": labels}, ah.Parallel("a", "b")) == pytest.approx(
            expected, rel=1e-4
        )


@torch.no_grad()
def model_loss(model: Any, inputs: Any, setup: Any) -> float:
    model.active_adapters = setup
    return float(model(**inputs).loss)


def test_nested(model: Any) -> None:
    stack, fuse = ah.Stack("b", "a"), ah.Fuse("a", "b")
    nested = ah.BatchSplit(stack, fuse, ah.Average("a", "c", weights=[1, 3]), batch_sizes=[1, 1, 1])
    assert close(run(model, ids(3), nested), each(model, [stack, fuse, ah.Average("a", "c", weights=[1, 3])]))
    outer = ah.Stack("g", ah.Parallel("a", ah.Stack("b", "c")))
    both = run(model, ids(2), outer)
    assert close(both[:2], run(model, ids(2), ah.Stack("g", "a")))
    assert close(both[2:], run(model, ids(2), ah.Stack("g", "b", "c")))


def test_stack_order_matters_and_absent_children_pass_through(model: Any) -> None:
    assert not close(run(model, setup=ah.Stack("a", "b")), run(model, setup=ah.Stack("b", "a")))
    for setup in (ah.Stack("a", "e"), ah.Average("a", "e"), ah.Fuse("a", "e"), ah.Parallel("e", "a")):
        assert torch.isfinite(run(model, setup=setup)).all()
    rows = run(model, ids(2), adapter_names=["e", "a"])
    assert close(rows, each(model, ["e", "a"]))


def test_average_is_a_weighted_mean_normalised_once() -> None:
    model = with_adapters(tiny("GPT2Model", n_layer=1), a="parallel", b="parallel")
    layer = model.h[0].mlp
    outputs: dict[Any, torch.Tensor] = {}
    handle = layer.register_forward_hook(lambda module, args, output: outputs.__setitem__("now", output))
    found = {}
    for name in ("a", "b", "both"):
        setup = ah.Average("a", "b", weights=[2, 6]) if name == "both" else name
        handle.remove()
        model.active_adapters = setup
        handle = layer.register_forward_hook(lambda module, args, output: outputs.__setitem__("now", output))
        run(model)
        found[name] = outputs["now"]
    assert close(found["both"], 0.25 * found["a"] + 0.75 * found["b"], 1e-5)


def test_split_along_the_sequence() -> None:
    model = with_adapters(tiny("GPT2Model", n_layer=1), a="pfeiffer", b="houlsby[mh_adapter=false]")
    both = run(model, setup=ah.Split("a", "b", splits=[3, 5]))
    assert close(both[:, :3], run(model, setup="a")[:, :3], 1e-6)
    assert close(both[:, 3:], run(model, setup="b")[:, 3:], 1e-6)
    with pytest.raises(InvalidConfigError, match="sequence"):
        run(model, ids(2, 9), ah.Split("a", "b", splits=[3, 5]))


def test_adapters_with_and_without_the_models_norm_in_one_sequence() -> None:
    """`pfeiffer` gives the model's norm its sum, `adapter_plus` and `bapna` give what they computed in its place."""
    model = with_adapters(
        tiny("BertModel", num_hidden_layers=2),
        a="pfeiffer[reduction_factor=4,leave_out=[0]]",
        d="adapter_plus[reduction_factor=8,leave_out=[0]]",
        g="bapna[reduction_factor=4,leave_out=[0]]",
        e="pfeiffer[leave_out=[1]]",  # absent where the others act
    )
    for parameter in model.get_adapter("e").values():
        parameter.data.zero_()
    alone = {name: run(model, ids(2), name) for name in "adge"}
    for setup, tokens in (
        (ah.Split("a", "d", splits=[3, 5]), ["aaaddddd"] * 2),
        (ah.Split("d", "a", "e", splits=[3, 4, 1]), ["dddaaaae"] * 2),
        (ah.Split(ah.BatchSplit("d", "a", batch_sizes=[1, 1]), "g", splits=[3, 5]), ["dddggggg", "aaaggggg"]),
        (ah.BatchSplit(ah.Split("a", "g", splits=[1, 7]), "d", batch_sizes=[1, 1]), ["aggggggg", "dddddddd"]),
        (ah.Average(ah.Split("d", "a", splits=[4, 4])), ["ddddaaaa"] * 2),
        (ah.Stack("g", ah.Split("e", ah.Stack("e"), splits=[4, 4])), ["gggggggg"] * 2),
    ):
        expected = torch.stack(
            [
                torch.stack([alone[name][row, token] for token, name in enumerate(names)])
                for row, names in enumerate(tokens)
            ]
        )
        assert close(run(model, ids(2), setup), expected), setup


def test_setups_of_threads_do_not_meet(model: Any) -> None:
    expected = {name: run(model, setup=name) for name in "abc"}
    model.active_adapters = "g"
    expected["g"] = run(model)
    wrong: list[str] = []
    barrier = threading.Barrier(4)

    def work(name: str | None) -> None:
        barrier.wait()
        for _ in range(15):
            if name is None:
                ok = close(run(model), expected["g"])
            else:
                with ah.AdapterSetup(name):
                    ok = close(run(model), expected[name])
            if not ok:
                wrong.append(str(name))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c", None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with ah.AdapterSetup(None):
        assert model.active_adapters is None
    assert model.active_adapters == ah.Stack("g")
    model.active_adapters = None


def test_adapter_drop_skips_layers(model: Any) -> None:
    model.set_active_adapters("a", skip_layers=[0, 1])
    some = run(model)
    model.set_active_adapters("a", skip_layers=[0, 1, 2])
    assert torch.equal(run(model), run(model, setup=None))
    assert not close(some, run(model, setup="a"))
    with ah.AdapterSetup("a", skip_layers=[0, 1]):
        assert torch.equal(run(model), some)
    model.active_adapters = None


def test_senseless_nestings_are_refused_when_set(model: Any) -> None:
    for make in (
        lambda: ah.Fuse("a", ah.Split("a", "b", splits=4)),
        lambda: ah.BatchSplit(ah.Parallel("a", "b"), "a", batch_sizes=1),
        lambda: ah.Stack(ah.Parallel("a", "b"), ah.Parallel("a", "b")),
    ):
        with pytest.raises(InvalidConfigError):
            make()


def test_mixed_rows_train_like_single_ones(model: Any) -> None:
    names = ["a", "g", "a"]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    wanted = [*model.get_adapter("a").values(), *model.get_adapter("g").values()]
    for parameter in wanted:
        parameter.requires_grad_(True)
    loss_of(model(**ids(), adapter_names=names).last_hidden_state).backward()
    together = [parameter.grad.clone() for parameter in wanted]
    for parameter in wanted:
        parameter.grad = None
    for row, name in enumerate(names):
        model.active_adapters = name
        loss_of(model(input_ids=ids()["input_ids"][row : row + 1]).last_hidden_state).backward()
    model.active_adapters = None
    for parameter, gradient in zip(wanted, together, strict=True):
        assert close(parameter.grad, gradient, 1e-4 * float(gradient.abs().max()))
    with torch.no_grad():
        before = run(model, ids(), adapter_names=names)
        wanted[0].mul_(2)
        assert not close(run(model, ids(), adapter_names=names), before), "the bank notices new weights"
        wanted[0].div_(2)


def test_a_composition_in_every_row() -> None:
    model = with_adapters(tiny("BertModel"), a="pfeiffer+inv", b="houlsby", c="bapna", l="lora")
    model.add_adapter_fusion(["a", "b"])
    shake(model)
    setups = [ah.Stack("a", "b"), None, ah.Fuse("a", "b"), "c", ["l", "a"], ah.Average("a", "c")]
    assert close(run(model, ids(6), adapter_names=setups), each(model, setups))
    split = ah.BatchSplit(ah.Fuse("a", "b"), "l", batch_sizes=[1, 1])  # LoRA acts where fusions do not
    assert close(run(model, ids(2), split), each(model, [ah.Fuse("a", "b"), "l"]))
    with pytest.raises(InvalidConfigError, match="Parallel repeats the batch"):
        model(**ids(2), adapter_names=[ah.Parallel("a", "b"), None])
    with pytest.raises(InvalidConfigError, match="one name, composition or None for each row"):
        model(**ids(1), adapter_names="a")
    with pytest.raises(InvalidConfigError, match="'l' has no bottleneck"):
        model.add_adapter_fusion(["a", "l"])
