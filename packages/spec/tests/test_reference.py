"""References parse as a whole or not at all, and what parses can be written and read again."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from adapterhub.spec import AdapterReference, InvalidReferenceError, fold, format_reference, parse_reference
from adapterhub.spec.reference import MAX_LENGTH

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
DIGEST = "0123456789abcdef" * 4
names = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from(LETTERS),
    st.text(alphabet=LETTERS + "._-+", max_size=12),
)
namespaces = names.filter(lambda name: name.lower() != "sha256")


@st.composite
def references(draw: st.DrawFn) -> str:
    """Texts the grammar generates."""
    text = draw(st.one_of(st.just(""), names.map(lambda hub: f"{hub}::")))
    kind = draw(st.sampled_from(["direct", "pair", "word"]))
    if kind == "direct":
        text += f"@{draw(namespaces)}/{draw(names)}"
    else:
        text += f"{draw(names)}/{draw(names)}" if kind == "pair" else draw(names)
        text += draw(st.one_of(st.just(""), namespaces.map(lambda namespace: f"@{namespace}")))
    text += draw(st.one_of(st.just(""), names.map(lambda version: f":{version}")))
    digits = st.text(alphabet="0123456789abcdefABCDEF", min_size=64, max_size=64)
    return text + draw(st.one_of(st.just(""), digits.map(lambda digest: f"@sha256:{digest}")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sst", AdapterReference(word="sst")),
        ("Sentiment/SST-2", AdapterReference(task="sentiment", subtask="sst-2")),
        ("sst-2@UKP", AdapterReference(word="sst-2", namespace="ukp")),
        ("@ukp/x_1:RC1", AdapterReference(namespace="ukp", name="x_1", version="RC1")),
        ("AH::code/c++", AdapterReference(hub="ah", task="code", subtask="c++")),
        (f"x@SHA256:{DIGEST.upper()}", AdapterReference(word="x", digest=f"sha256:{DIGEST}")),
        (f"x@n:1@sha256:{DIGEST}", AdapterReference(word="x", namespace="n", version="1", digest=f"sha256:{DIGEST}")),
        ("sha256", AdapterReference(word="sha256")),
    ],
)
def test_references_are_taken_apart(text: str, expected: AdapterReference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(parse_reference(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "@", "/", "a/", "/a", "a/b/c", "@a", "@a/", "@/a", "a@", "a:", "a:1:2", "a:1@b", "a@b@c", "-a", "a b", " a", "a\n",
     "::a", "a::", "a::b::c", "a@sha256", "@sha256/a", "a@sha256:00", f"a@sha256:{DIGEST}0", f"a@sha256:{DIGEST}:1", "a@b/c",
     "ſst", "\u212a", "a\x00", "../a", "a/../b", "a%2fb", "a\\b", "https://example.org/a", "x" * (MAX_LENGTH + 1)],
)  # fmt: skip
def test_anything_else_is_invalid(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        parse_reference(text)
    assert caught.value.hint
    assert len(str(caught.value)) < 600


def test_a_reference_is_text() -> None:
    with pytest.raises(InvalidReferenceError):
        parse_reference(3)  # type: ignore[arg-type]


def test_folding_joins_separators_and_case_but_nothing_else() -> None:
    assert fold("SST_2.x-Y") == "sst-2-x-y"
    assert fold("a--b__c") == "a--b--c"
    assert fold("C++") == "c++"
    assert fold("\u212aelvin") == "\u212aelvin"


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"task": "a"},
        {"name": "a"},
        {"word": "a", "name": "b", "namespace": "c"},
        {"word": "a", "task": "b", "subtask": "c"},
        {"word": "a b"},
        {"word": "a", "namespace": "sha256"},
        {"word": "a", "digest": "sha256:00"},
        {"word": "a", "version": "1@b"},
    ],
)
def test_parts_that_make_no_reference_cannot_be_written(parts: dict[str, str]) -> None:
    with pytest.raises(InvalidReferenceError):
        format_reference(AdapterReference(**parts))


def test_writing_lowers_names_and_keeps_the_version() -> None:
    assert format_reference(AdapterReference(word="SST", namespace="UKP", version="RC1")) == "sst@ukp:RC1"


@given(references())
def test_what_the_grammar_generates_is_read_and_written_back(text: str) -> None:
    reference = parse_reference(text)
    assert parse_reference(format_reference(reference)) == reference
    assert fold(format_reference(reference)) == fold(text)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_invalid_and_nothing_else_happens(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReferenceError:
        return
    assert parse_reference(str(reference)) == reference
    assert text.isascii() and text.strip() == text


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert len(fold(text)) == len(text)


@settings(max_examples=20)
@given(st.sampled_from("@:/a-.\x00é"), st.integers(1, 200_000))
def test_long_input_is_refused_at_once(letter: str, count: int) -> None:
    started = time.thread_time()
    try:
        parse_reference(letter * count)
    except InvalidReferenceError:
        pass
    assert time.thread_time() - started < 5, "work that grows with the square of the length would take minutes"
