"""Index lines and files: what is written is read back, what is broken is named, and nothing reads more than it must."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from adapterhub.spec import (
    AdapterNotFoundError,
    IndexEntry,
    InvalidManifestError,
    load_preset,
    resolve,
)
from adapterhub.spec.index import (
    bucket_of,
    bucket_path,
    model_path,
    namespace_path,
    parse_bucket,
    read_lines,
    segment_prefixes,
    word_path,
    write_lines,
)
from adapterhub.spec.index_files import build_index, write_bucket
from adapterhub.spec.lookup import look_up

REQUIRED = {"namespace": "n", "name": "a", "version": "1", "model_name": "m", "task": "t", "subtask": "s"}
ENTRY = IndexEntry(**REQUIRED, config=load_preset("pfeiffer").expand(), using="pfeiffer", size=3, yanked=True)

entries = st.builds(
    IndexEntry,
    **dict.fromkeys(REQUIRED, st.text(max_size=8)),
    digest=st.none() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
    config=st.dictionaries(st.text(max_size=4), st.integers() | st.booleans() | st.text(max_size=4), max_size=3),
    size=st.none() | st.integers(0, 2**53),
    hidden_size=st.none() | st.integers(1, 4096),
    yanked=st.booleans(),
    status=st.sampled_from(["available", "unavailable"]),
    files=st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2), max_size=2).map(tuple),
)


@given(st.lists(entries, max_size=4))
def test_lines_are_read_back_as_they_were_written(listed: list[IndexEntry]) -> None:
    assert read_lines(write_lines(listed)) == listed


def test_a_line_is_one_line_of_json_with_what_differs_from_the_defaults() -> None:
    line = ENTRY.to_json_line()
    assert "\n" not in line
    document = json.loads(line)
    assert document["v"] == 1 and document["yanked"] is True
    assert "license" not in document and "status" not in document
    assert IndexEntry.from_json(document) == ENTRY


def test_unknown_members_and_later_formats_are_passed_over() -> None:
    line = json.dumps({**ENTRY.to_json(), "mirrors": ["x"]})
    later = json.dumps({**ENTRY.to_json(), "v": 2, "name": {"new": "shape"}})
    assert read_lines(f"{line}\n\n{later}\n") == [ENTRY]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "has no 'name'"),
        ({"name": 3}, "'name'.*is int, not text"),
        ({"yanked": "yes"}, "not true or false"),
        ({"size": True}, "not a whole number"),
        ({"size": 1.5}, "not a whole number"),
        ({"config": []}, "not an object"),
        ({"files": [3]}, "no list of objects"),
        ({"status": "lost"}, "not one of"),
        ({"digest": "sha256:../../x"}, "64 hex digits"),
    ],
)
def test_a_broken_line_is_named_with_its_number(change: dict[str, Any], message: str) -> None:
    broken = json.dumps({**ENTRY.to_json(), **change})
    with pytest.raises(InvalidManifestError, match=message) as caught:
        read_lines(f"{ENTRY.to_json_line()}\n{broken}\n")
    assert "Line 2" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"v":1}', "[" * 100_000, '{"default": 3}'])
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(InvalidManifestError):
        parse_bucket(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_lines(text)
    except InvalidManifestError:
        pass


def test_a_bucket_carries_the_default_pointers_of_its_entries_only() -> None:
    defaults = {("m", "T", "s"): "@n/a", ("m", "other", "s"): "@n/b"}
    assert parse_bucket(write_bucket([ENTRY], defaults)) == ([ENTRY], {("m", "T", "s"): "@n/a"})


def test_paths_are_those_of_the_specification() -> None:
    assert namespace_path("Mixed.Case", "Name_One") == "/index/ns/mi/mixed-case/name-one.jsonl"
    assert namespace_path("n", "c++") == "/index/ns/n/n/c++.jsonl"
    assert bucket_of("bert-base-uncased", "sentiment", "sst-2") == bucket_of("bert-base-uncased", "Sentiment", "SST_2")
    assert bucket_path("bert-base-uncased", "sentiment", "sst-2") == "/index/k/73b9.jsonl"
    assert word_path("bert-base-uncased", "sst") == "/index/w/304a.jsonl"
    assert model_path("bert-base-uncased") == "/index/m/bcab.json"


def test_segment_prefixes_end_at_separators() -> None:
    assert segment_prefixes("Exam_maths-1") == ["exam-maths-1", "exam-maths", "exam"]
    assert segment_prefixes("c++") == ["c++"]


def test_a_built_index_has_every_entry_where_it_is_looked_for() -> None:
    other = IndexEntry(**{**REQUIRED, "name": "b", "task": "exam-maths"})
    files = dict(build_index([ENTRY, other], {("m", "t", "s"): "@n/a"}, aliases={"x": "t"}, config={"name": "Example"}))
    assert json.loads(files["/index/config.json"]) == {"index_version": 1, "name": "Example"}
    assert json.loads(files["/index/aliases.json"]) == {"x": "t"}
    for entry in (ENTRY, other):
        assert entry in read_lines(files[namespace_path("n", entry.name)].decode())
        assert entry in read_lines(files[bucket_path("m", entry.task, entry.subtask)].decode())
    lines = [json.loads(line) for line in files[word_path("m", "exam")].splitlines()]
    assert {"v": 1, "model_name": "m", "word": "exam", "pairs": [["exam-maths", "s", "text_task"]]} in lines
    words = [json.loads(line) for line in files[word_path("m", "t")].splitlines()]
    assert {"v": 1, "model_name": "m", "word": "t", "pairs": [], "yanked": [["t", "s", "text_task"]]} in words
    assert json.loads(files[model_path("m")])["models"]["m"]["pairs"] == [["exam-maths", "s", "text_task"]]


def test_an_adapter_without_a_task_is_found_by_name_only() -> None:
    nameless = IndexEntry(**{**REQUIRED, "task": "", "subtask": ""})
    files = dict(build_index([nameless]))
    assert read_lines(files[namespace_path("n", "a")].decode()) == [nameless]
    assert not any(path.startswith("/index/w/") for path in files)
    assert json.loads(files[model_path("m")])["models"] == {}
    assert resolve("@n/a", [nameless], model_name="m").name == "a"
    with pytest.raises(AdapterNotFoundError):
        resolve("a", [nameless], model_name="m")


@pytest.mark.parametrize("ref", ["t/s", "s"])
def test_a_version_given_beside_the_reference_pins_it_too(ref: str) -> None:
    files = dict(build_index([ENTRY]))  # its only version is yanked
    for version, expected in [(None, None), ("1", ENTRY)]:
        steps = look_up(ref, model_name="m", version=version)
        paths = next(steps)
        with pytest.raises(StopIteration if expected else AdapterNotFoundError) as finished:
            while True:
                paths = steps.send({path: files.get(path) for path in paths})
        assert not expected or finished.value.value.entry == expected  # type: ignore[union-attr]
