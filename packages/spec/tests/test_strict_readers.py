"""The JSON and YAML readers: what they take means one thing only; whatever they are given, they answer or refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

from adapterhub.spec.canonical import canonical_json
from adapterhub.spec.validation.strict_json import JSONSyntaxError, line_of_pointers, pointer_of, read_json
from adapterhub.spec.validation.strict_yaml import YAMLSyntaxError, read_yaml

LIMIT = 100_000


def from_json(text: str | bytes) -> Any:
    return read_json(text.encode() if isinstance(text, str) else text, max_bytes=LIMIT)


def from_yaml(text: str | bytes) -> Any:
    return read_yaml(text.encode() if isinstance(text, str) else text, max_bytes=LIMIT)[0]


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)


@given(_values)
def test_json_survives_writing_and_reading(value: Any) -> None:
    assert from_json(json.dumps(value)) == value
    assert from_json(json.dumps(value, ensure_ascii=False, indent=1)) == value


@given(_values)
def test_canonical_json_is_a_fixed_point_and_means_the_same(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(from_json(text)) == text
    assert canonical_json(json.loads(text, parse_int=float)) == text  # as a language with doubles alone reads it


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (from_json, from_yaml):
        try:
            read(data)
        except JSONSyntaxError as error:
            assert error.message


@given(st.text(st.sampled_from('{}[]:,"\\ntruefalse019.-+eE \n#&*!|>%@`-?~'), max_size=60))
def test_text_that_nearly_is_json_or_yaml_is_read_or_refused(text: str) -> None:
    try:
        value = from_json(text)
    except JSONSyntaxError:
        with pytest.raises(ValueError):
            _reference_json(text)
    else:
        assert value == json.loads(text)
    try:
        from_yaml(text)
    except YAMLSyntaxError:
        pass


def _reference_json(text: str) -> Any:
    """What `json` makes of the text, less the things only we refuse."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise ValueError("duplicate")
        return dict(items)

    def finite(number: str) -> float:
        if float(number) in (float("inf"), float("-inf")):
            raise ValueError("overflow")
        return float(number)

    def refuse(_: str) -> Any:
        raise ValueError("constant")

    def short(number: str) -> int:
        if len(number) > 20:
            raise ValueError("long")
        return int(number)

    return json.loads(text, object_pairs_hook=pairs, parse_float=finite, parse_constant=refuse, parse_int=short)


@given(st.text(st.sampled_from("0123456789.-+eExob_:yYnNoOfFtrueTlsaNI~<= TZ"), min_size=1, max_size=12))
def test_a_plain_word_is_never_read_in_two_ways(word: str) -> None:
    """Either YAML 1.1 (as PyYAML reads it) gives the same value, or the word is refused."""
    try:
        value = from_yaml(f"- {word}\n")
    except YAMLSyntaxError:
        return
    other = yaml.safe_load(f"- {word}\n")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], float) and isinstance(other[0], str):
        pytest.fail(f"{word}: {value} here, {other} in YAML 1.1")
    assert value == other and type(value[0]) is type(other[0])


@pytest.mark.parametrize(
    "text",
    [
        "a: no",
        "a: 010",
        "a: 1:30",
        "a: 1_000",
        "a: 2020-01-01",
        "a: 0o17",
        "a: .nan",
        "a: 1e3",
        "a: &x 1",
        "a: *x",
        "a: !!str 1",
        "a: ! 1",
        "<<: {a: 1}",
        "a: 1\na: 1",
        "a: 1\n'a': 1",
        "a: 1\n---\nb: 1",
        "%TAG ! x:\n---\na: 1",
        "? [a]\n: 1",
        "? {a: 1}\n: 1",
        "1: a",
        "null: a",
        "",
        "# nothing",
        "a: " + "[" * 30 + "]" * 30,
        "a: " + "9" * 500,
        "\ufeffa: 1",
    ],
)
def test_yaml_that_could_mislead_is_refused(text: str) -> None:
    with pytest.raises(YAMLSyntaxError):
        from_yaml(text)


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("a:\tb", False),
        ("a: b\tc", False),
        ("a: [1,\t2]", False),
        ('a: "\\ud800"', False),
        ('a: "x\ty"\nb: |\n  x\ty\nc: 1 # \tx\n', True),
    ],
)
def test_yaml_means_the_same_with_and_without_libyaml(
    text: str, accepted: bool, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(yaml, loader):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, loader))
    if accepted:
        assert from_yaml(text) == {"a": "x\ty", "b": "x\ty\n", "c": 1}
    else:
        with pytest.raises(YAMLSyntaxError):
            from_yaml(text)


def test_yaml_core_types_and_lines() -> None:
    text = 'a: "no"\nb:\n  - 1\n  - 1.5\n  - true\n  - ~\n  - no way\nc: |\n  two\n  lines\nd: 0x1F\n'
    value, lines = read_yaml(text.encode(), max_bytes=LIMIT)
    assert value == {"a": "no", "b": [1, 1.5, True, None, "no way"], "c": "two\nlines\n", "d": 31}
    assert lines["/a"] == 1 and lines["/b/1"] == 4 and lines["/c"] == 8


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"\\u0061":2}',
        "[NaN]",
        "[-Infinity]",
        "[1e999]",
        "[01]",
        "[1,]",
        "{'a':1}",
        "[1] 2",
        '["\\ud800"]',
        "[" * 100_000,
        '{"a":' * 3_000 + "1" + "}" * 3_000,
        "[" + "1" * 5_000 + "]",
        "\ufeff[]",
        "",
        " ",
    ],
)
def test_json_that_could_mislead_is_refused(text: str) -> None:
    with pytest.raises(JSONSyntaxError):
        from_json(text)


def test_json_problems_are_located() -> None:
    with pytest.raises(JSONSyntaxError) as caught:
        from_json('{\n "a": {\n  "b": [1,\n   {"c": 1, "c": 2}]}}')
    assert (caught.value.line, caught.value.pointer) == (4, "/a/b/1/c")
    lines = line_of_pointers('{\n "a/b": [\n  1,\n  {"~": "}"}\n ],\n "c": {}}')
    assert lines["/a~1b/1"] == 4 and lines["/a~1b/1/~0"] == 4 and lines["/c"] == 6
    assert pointer_of(("a/b", 1, "~")) == "/a~1b/1/~0"


@given(_values)
def test_every_pointer_of_a_document_has_a_line(value: Any) -> None:
    lines = line_of_pointers(json.dumps(value, indent=1))

    def walk(part: Any, pointer: str) -> None:
        assert pointer in lines
        if isinstance(part, dict):
            for key, item in part.items():
                walk(item, pointer + pointer_of((key,)))
        elif isinstance(part, list):
            for position, item in enumerate(part):
                walk(item, f"{pointer}/{position}")

    walk(value, "")
