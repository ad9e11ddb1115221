"""Composition blocks: what they hold, what they refuse, and that they survive JSON and pickle."""

from __future__ import annotations

import pickle

import pytest

from adapterhub.spec import Average, BatchSplit, Composition, Fuse, InvalidConfigError, Parallel, Split, Stack
from adapterhub.spec.composition import parse_composition


def test_blocks_survive_json_and_pickle() -> None:
    blocks = [
        Stack("en", Parallel("a", "b")),
        Stack("en", Fuse("a", Stack("b", "c"), name="mine")),
        Split("a", Stack("b", "c"), splits=[3, 5]),
        BatchSplit("a", Average("b", "c", weights=[1, 3]), batch_sizes=2),
    ]
    for block in blocks:
        assert Composition.from_dict(block.to_dict()) == block
        assert pickle.loads(pickle.dumps(block)) == block
        assert hash(pickle.loads(pickle.dumps(block))) == hash(block)


def test_stacks_are_flattened_and_names_listed_once() -> None:
    block = Stack("a", Stack("b", Stack("a", "c")))
    assert block.children == ("a", "b", "a", "c")
    assert block.names() == ["a", "b", "c"]


def test_what_a_user_writes_for_a_setup() -> None:
    assert parse_composition("a") == Stack("a")
    assert parse_composition(["a", "b"]) == Stack("a", "b")
    assert parse_composition(None) is None
    assert parse_composition({"type": "Fuse", "children": ["a", "b"]}) == Fuse("a", "b")
    with pytest.raises(InvalidConfigError):
        parse_composition(3)


def test_whole_numbers_are_whole_however_they_are_written() -> None:
    block = Split("a", "b", splits=[3.0, 5])
    assert block == Split("a", "b", splits=[3, 5])
    assert block.to_dict()["splits"] == [3, 5]


def test_weights_are_normalised_once() -> None:
    assert Average("a", "b", weights=[1, 3]).shares() == (0.25, 0.75)
    assert Average("a", "b", weights=[1, 3], normalize_weights=False).shares() == (1, 3)
    assert Average("a", "b", "c", "d").shares() == (0.25,) * 4


def test_fusion_attends_over_the_last_of_each_stack() -> None:
    assert Fuse("a", ["b", "c"]).fused_names() == ["a", "c"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stack(),
        lambda: Stack(""),
        lambda: Stack(3),
        lambda: Fuse(Fuse("a", "b"), "c"),
        lambda: Fuse(Stack("a", Average("b", "c"))),
        lambda: Parallel("a", Parallel("b", "c")),
        lambda: Split("a", Stack("b", Parallel("c", "d")), splits=[1, 2]),
        lambda: Stack(Parallel("a", "b"), Parallel("c", "d")),
        lambda: Split("a", "b", splits=[1]),
        lambda: Split("a", "b", splits=[1, -2]),
        lambda: Split("a", "b", splits=[1, 2.5]),
        lambda: Fuse("a", "b", name=""),
        lambda: BatchSplit("a", "b", batch_sizes=[True, 2]),
        lambda: Average("a", "b", weights=[1]),
        lambda: Average("a", "b", weights=[1, -1]),
        lambda: Average("a", "b", weights=[1, float("nan")]),
        lambda: Composition.from_dict({"type": "Stak", "children": ["a"]}),
        lambda: Composition.from_dict({"type": "Stack", "children": ["a"], "weights": [1]}),
    ],
)
def test_senseless_blocks_are_refused_when_made(make: object) -> None:
    with pytest.raises(InvalidConfigError):
        make()  # type: ignore[operator]


def test_blocks_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Stack("a").children = ("b",)
