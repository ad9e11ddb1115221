"""Resolving over index files gives what resolving over the whole catalogue gives, for few files, however they are split."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from adapterhub.spec import AdapterHubError, AmbiguousAdapterError, IndexEntry, load_preset, resolve
from adapterhub.spec.index import bucket_path, parse_file, word_path
from adapterhub.spec.index_files import SPLIT_ABOVE, Spellings, build_index, witnesses
from adapterhub.spec.lookup import PartlyListedError, look_up

BERT = "bert-base-uncased"
PRESETS = {name: load_preset(name).expand() for name in ("pfeiffer", "houlsby", "lora")}
IDS = {name: load_preset(name).config_id for name in PRESETS}


def ask(files: Mapping[str, bytes], ref: str, **context: Any) -> tuple[Any, list[list[str]]]:
    """The answer over index files, and the files asked for, round by round."""
    steps = look_up(ref, **context)
    rounds: list[list[str]] = []
    try:
        paths = next(steps)
        while True:
            rounds.append(paths)
            paths = steps.send({path: files.get(path) for path in paths})
    except StopIteration as finished:
        return finished.value, rounds
    except AdapterHubError as error:
        return error, rounds


def plain(answer: Any) -> Any:
    if isinstance(answer, AdapterHubError):
        return answer.code, sorted(map(str, answer.candidates))
    return answer.entry, answer.tier, answer.decided_by, answer.sha256


def whole(ref: str, entries: list[IndexEntry], **context: Any) -> Any:
    try:
        return resolve(ref, entries, **context)
    except AdapterHubError as error:
        return error


def catalogue(dice: random.Random, count: int) -> tuple[list[IndexEntry], dict[tuple[str, str, str], str]]:
    """Made-up adapters that share names, tasks and publishers as much as the grammar allows."""
    words = ["a", "a-b", "A_b", "a-b-c", "b", "c++", "b.c", "d"]
    entries: dict[tuple[str, str, str], IndexEntry] = {}
    for number in range(count):
        preset = dice.choice(list(PRESETS))
        config = dict(PRESETS[preset])
        config_id = IDS[preset]
        if dice.random() < 0.2 and preset == "pfeiffer":
            config["reduction_factor"], config_id = 8, "sha256:" + "8" * 64
        task = dice.choice(words) if dice.random() < 0.95 else ""
        one = IndexEntry(
            namespace=dice.choice(["n", "N2", "m.x", "o"]),
            name=dice.choice([f"x{number}", f"x{number % 7}"]),
            version=dice.choice(["1", "2"]),
            model_name=BERT if dice.random() < 0.9 else "m",
            task=task,
            subtask=dice.choice(words) if task else "",
            type=dice.choice(["text_task", "text_task", "text_lang"]),
            method=config["method"],
            using=preset,
            config=config,
            config_id=config_id,
            digest=f"sha256:{number:064x}",
            default_version=dice.choice([None, None, "1"]),
            yanked=dice.random() < 0.2,
            created_at=dice.choice([None, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        )
        entries.setdefault((one.namespace, one.name, one.version), one)
    listed = list(entries.values())
    defaults = {}
    for entry in dice.sample(listed, min(len(listed), 4)):
        adapter = entry.adapter if dice.random() < 0.8 else "@gone/away"
        defaults[entry.model_name, entry.task, entry.subtask] = adapter
    return listed, defaults


def question(dice: random.Random) -> tuple[str, dict[str, Any]]:
    words = ["a", "a-b", "a-b-c", "b", "c++", "b-c", "d", "q", "r"]
    path = dice.choice(words) + (f"/{dice.choice(words)}" if dice.random() < 0.5 else "")
    publisher = dice.choice(["", "", "@n", "@n2", "@m-x", "@nobody"])
    rest = dice.choice(["", "", "", ":1", ":9", f"@sha256:{dice.randrange(40):064x}"])
    config = dice.choice([None, None, "pfeiffer", "lora", IDS["houlsby"], PRESETS["pfeiffer"], "sha256:" + "8" * 64])
    kind = dice.choice([None, None, "text_lang", "text_task"])
    return f"{path}{publisher}{rest}", {"model_name": BERT, "config": config, "type": kind}


ALIASES = [{}, {"q": "a", "r": "a-b/b"}, {"q/r": "b", "q": "d", "r": "c++"}, {"a": "b", "a/b": "c++/d", "d": "a/b"}]


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32))
def test_index_files_give_what_the_whole_catalogue_gives(seed: int) -> None:
    dice = random.Random(seed)
    entries, defaults = catalogue(dice, dice.choice([6, 25, 60]))
    aliases = dice.choice(ALIASES)
    files = dict(build_index(entries, defaults, aliases=aliases, split_above=dice.choice([1, 2, 4, SPLIT_ABOVE])))
    for _ in range(12):
        ref, context = question(dice)
        own = dice.choice([None, None, {"b": "a-b"}])  # the caller's own table instead of the hub's
        expected = whole(ref, entries, aliases=own if own is not None else aliases, defaults=defaults, **context)
        found, rounds = ask(files, ref, aliases=own, **context)
        if isinstance(found, PartlyListedError):
            assert isinstance(expected, AmbiguousAdapterError), (ref, context, expected)
            assert {str(one) for one in found.candidates} <= {str(one) for one in expected.candidates}
            found, _ = ask(files, ref, aliases=own, complete=True, **context)
        assert plain(found) == plain(expected), (ref, context)
        assert len(rounds) <= 8


def crowd(**more: Any) -> list[IndexEntry]:
    """Adapters of a hundred publishers for one task and data set, and another task of the same data set."""
    presets = list(PRESETS)
    return [
        IndexEntry(
            namespace=f"p{number}",
            name=f"sst-{number}",
            version="1",
            model_name=BERT,
            task="sentiment" if number else "toxicity",
            subtask="sst-2",
            using=presets[number % 3],
            method=PRESETS[presets[number % 3]]["method"],
            config=PRESETS[presets[number % 3]],
            config_id=IDS[presets[number % 3]],
            digest=f"sha256:{number:064x}",
            **more,
        )
        for number in range(100)
    ]


@pytest.mark.parametrize(
    ("ref", "config", "files", "answer"),
    [
        ("sentiment/sst-2@p77", None, 2, "p77"),
        ("sentiment/sst-2@p7:1", "houlsby", 2, "p7"),
        ("sst-2@p77", None, 2, "p77"),
        ("sst@p77", None, 2, "p77"),
        ("sst-2@p0", None, 2, "p0"),
        ("opinion@p77", None, 2, "p77"),
        ("glue/sst2@p77", None, 2, "p77"),
        ("sentiment/sst@p77", None, 2, "p77"),
        ("@p77/sst-77", None, 1, "p77"),
        ("toxicity", None, 2, "p0"),
        ("toxicity/sst", None, 2, "p0"),
        ("harm/sst-2", None, 2, "p0"),
        ("sentiment", None, 2, None),
        ("sentiment/sst-2", None, 1, None),
        ("sentiment/sst-2", "lora", 1, None),
        ("sst-2", None, 1, None),
        ("sst-2@p77", "houlsby", 2, "NotFound"),
    ],
)
def test_two_files_are_enough_where_a_hundred_adapters_compete(
    ref: str, config: str | None, files: int, answer: str | None
) -> None:
    aliases = {"opinion": "sentiment", "glue/sst2": "sentiment/sst-2", "harm": "toxicity"}
    entries = crowd()
    tree = dict(build_index(entries, aliases=aliases))
    found, rounds = ask(tree, ref, model_name=BERT, config=config)
    assert sum(map(len, rounds)) <= files, rounds
    expected = whole(ref, entries, model_name=BERT, config=config, aliases=aliases)
    if answer is None:
        assert isinstance(found, PartlyListedError)
        found, _ = ask(tree, ref, model_name=BERT, config=config, complete=True)
    elif answer != "NotFound":
        assert found.namespace == answer
    assert plain(found) == plain(expected)
    assert max(sum(len(tree.get(path, b"")) for path in paths) for paths in rounds) < len(
        tree[bucket_path(BERT, "sentiment", "sst-2")]
    ) + len(tree[word_path(BERT, "sst-2")])


def test_the_default_of_a_crowd_is_in_its_bucket() -> None:
    tree = dict(build_index(crowd(), {(BERT, "sentiment", "sst-2"): "@P98/sst_98"}))
    for ref in ("sentiment/sst-2", "sentiment"):
        found, rounds = ask(tree, ref, model_name=BERT)
        assert (found.namespace, found.decided_by, sum(map(len, rounds))) == ("p98", "default", 1 if "/" in ref else 2)


def test_a_bucket_tells_how_many_adapters_it_does_not_show() -> None:
    file = parse_file(dict(build_index(crowd()))[bucket_path(BERT, "sentiment", "sst-2")])
    assert file.counts == {(BERT, "sentiment", "sst-2"): {"text_task": (99, 99)}}
    assert 2 < len([entry for entry in file.entries if entry.task == "sentiment"]) < SPLIT_ABOVE


def test_witnesses_of_a_config_are_of_two_publishers() -> None:
    from adapterhub.spec.index_files import Witness

    rows = [Witness(number, f"n{number // 50}", "t", str(number % 3), live=number > 10) for number in range(100)]
    shown = witnesses(rows, pointer=5)
    assert 5 in shown and len(shown) == 7
    for config in range(3):
        assert {rows[key].namespace for key in shown if rows[key].config == str(config)} == {"n0", "n1"}  # type: ignore[index]


def test_spellings_are_those_that_resolution_accepts() -> None:
    spellings = Spellings({"Opinion": "sentiment", "glue/sst2": "sentiment/sst-2", "stars": "sst"})
    assert spellings.words("Sentiment", "sst_2") == {"sentiment", "sst-2", "sst", "opinion"}
    assert spellings.paths("Sentiment", "sst_2") == {"sentiment/sst", "opinion/sst-2", "glue/sst2"}
    assert spellings.targets("glue/sst2", [("sentiment", "SST-2", "text_task")]) == ["sentiment/sst-2"]
    assert spellings.targets("stars", [("sentiment", "SST-2", "text_task")]) == []
