"""Resolution over a hub's own entries: versions, yanks, digests, configs of any spelling, default pointers, aliases."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, strategies as st

from adapterhub.spec import (
    AdapterHubError,
    AdapterNotFoundError,
    AmbiguousAdapterError,
    IndexEntry,
    IntegrityError,
    InvalidReferenceError,
    ModelMismatchError,
    VersionNotFoundError,
    load_preset,
)
from adapterhub.spec.errors import error_from_problem
from adapterhub.spec.reference import parse_reference
from adapterhub.spec.resolution import EntryIndex, match_pairs, resolve

BERT = "bert-base-uncased"


def entry(name: str = "a", version: str = "1", *, preset: str = "pfeiffer", **members: Any) -> IndexEntry:
    """A version as a hub lists it."""
    config = members.pop("adapter_config", None) or load_preset(preset)
    values: dict[str, Any] = {
        "namespace": "ukp",
        "name": name,
        "version": version,
        "model_name": BERT,
        "task": "sentiment",
        "subtask": "sst-2",
        "method": config.method,
        "using": preset,
        "config": config.expand(),
        "config_id": config.config_id,
        "legacy_config_id": config.legacy_config_id,
        "digest": "sha256:" + f"{name}{version}".encode().hex().ljust(64, "0")[:64],
    }
    return IndexEntry(**{**values, **members})


def found(ref: str, entries: Any, **context: Any) -> str:
    """`name:version` of what a reference resolves to."""
    resolution = resolve(ref, entries, **{"model_name": BERT, **context})
    return f"{resolution.name}:{resolution.version}"


def test_without_a_version_the_newest_by_time_is_meant() -> None:
    versions = [
        entry(version="2", created_at="2026-03-01T00:00:00Z"),
        entry(version="10", created_at="2026-03-01T01:00:00+02:00"),
        entry(version="1", created_at="2026-01-01T00:00:00.5Z"),
    ]
    assert found("sst-2", versions) == "a:2"
    assert found("@ukp/a", versions) == "a:2"


def test_among_versions_of_the_same_time_the_last_one_is_newest() -> None:
    assert found("sst-2", [entry(version="2"), entry(version="1")]) == "a:1"


def test_the_owner_may_set_another_default_version() -> None:
    versions = [entry(version="1"), entry(version="2", default_version="1")]
    assert found("sst-2", versions) == "a:1"


def test_a_yanked_version_is_found_only_by_references_that_pin_it() -> None:
    versions = [entry(version="1"), entry(version="2", yanked=True)]
    assert found("sst-2", versions) == "a:1"
    assert found("sst-2:2", versions) == "a:2"
    assert found(f"sst-2@{versions[1].digest}", versions) == "a:2"
    assert found("sst-2", versions, version="2") == "a:2"


def test_a_yanked_default_version_gives_way_to_the_newest_other() -> None:
    versions = [entry(version="1"), entry(version="2"), entry(version="3", yanked=True, default_version="3")]
    assert found("sst-2", versions) == "a:2"


def test_an_adapter_yanked_altogether_no_longer_stands_in_the_way() -> None:
    entries = [entry("a", yanked=True), entry("b", namespace="other")]
    assert found("sst-2", entries) == "b:1"
    with pytest.raises(AdapterNotFoundError, match="yanked"):
        resolve("@ukp/a", entries, model_name=BERT)
    assert found("@ukp/a:1", entries) == "a:1"
    with pytest.raises(AmbiguousAdapterError):  # a pinned reference means the same before and after a yank
        resolve("sst-2:1", entries, model_name=BERT)


def test_a_digest_that_another_version_has_selects_that_version() -> None:
    versions = [entry(version="1"), entry(version="2")]
    assert found(f"@ukp/a@{versions[0].digest}", versions) == "a:1"


def test_a_digest_nothing_has_is_an_error() -> None:
    versions = [entry(version="1"), entry(version="2")]
    wrong = "sha256:" + "e" * 64
    with pytest.raises(VersionNotFoundError, match="no version with"):
        resolve(f"@ukp/a@{wrong}", versions, model_name=BERT)
    with pytest.raises(IntegrityError, match="another digest"):
        resolve(f"@ukp/a:1@{wrong}", versions, model_name=BERT)


def test_a_version_given_twice_must_be_the_same() -> None:
    assert found("sst-2:1", [entry()], version="1") == "a:1"
    with pytest.raises(InvalidReferenceError):
        resolve("sst-2:1", [entry()], model_name=BERT, version="2")


def test_a_path_needs_a_model_and_a_name_does_not() -> None:
    with pytest.raises(InvalidReferenceError, match="base model"):
        resolve("sst-2", [entry()])
    assert resolve("@ukp/a", [entry()]).model_name == BERT


def test_another_model_is_a_mismatch() -> None:
    with pytest.raises(ModelMismatchError) as caught:
        resolve("@ukp/a", [entry()], model_name="roberta-base")
    assert caught.value.details == {"adapter_model": BERT}
    assert caught.value.adapter_model == BERT


def test_what_only_other_models_have_says_which() -> None:
    with pytest.raises(AdapterNotFoundError) as caught:
        resolve("sst-2", [entry()], model_name="roberta-base")
    assert caught.value.models == [BERT]
    assert error_from_problem(caught.value.to_problem()).models == [BERT]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "config",
    [
        "houlsby",
        {"using": "houlsby"},
        {"using": "double_seq_bn"},
        "houlsby[reduction_factor=16]",
        load_preset("houlsby"),
        load_preset("houlsby").expand(),
        load_preset("houlsby").config_id,
        load_preset("houlsby").legacy_config_id,
    ],
    ids=str,
)
def test_a_config_may_be_asked_for_in_any_spelling(config: Any) -> None:
    entries = [entry("p"), entry("h", preset="houlsby"), entry("l", preset="lora")]
    assert found("sst-2", entries, config=config) == "h:1"


@pytest.mark.parametrize(
    "config",
    [
        "Houlsby",
        {"using": "houlsby", "reduction_factor": 15.5},
        {"using": "houlsby", "no_such_key": 1},
        {"using": ["houlsby"]},
        {"method": "nothing"},
        {"reduction_factor": float("nan")},
        {},
        "sha256:" + "0" * 64,
        {"using": "houlsby", "mh_adapter": 1},
    ],
    ids=str,
)
def test_another_config_finds_nothing(config: Any) -> None:
    with pytest.raises(AdapterNotFoundError) as caught:
        resolve("sst-2", [entry("h", preset="houlsby")], model_name=BERT, config=config)
    assert caught.value.suggestions == ["sentiment/sst-2@ukp"]


def test_another_name_of_a_preset_is_pointed_out() -> None:
    with pytest.raises(AdapterNotFoundError, match=r"there with pfeiffer.*'seq_bn' is another name of 'pfeiffer'"):
        resolve("sst-2", [entry()], model_name=BERT, config="seq_bn")


@pytest.mark.parametrize("preset", ["lora", "prefix", "ia3", "loreft", "mam", "compacter"])
def test_configs_of_every_method_are_compared(preset: str) -> None:
    entries = [entry("p"), entry("x", preset=preset)]
    config = load_preset(preset)
    for asked in (preset, config, config.config_id, config.expand()):
        assert found("sst-2", entries, config=asked) == "x:1"


def test_an_architecture_of_the_callers_own_can_be_expanded() -> None:
    own = {**load_preset("pfeiffer").expand(), "reduction_factor": 3}
    entries = [entry("p"), entry("x", preset="pfeiffer", using="mine", config=own)]
    assert found("sst-2", entries, config={"using": "mine"}, architectures={"mine": own}) == "x:1"
    with pytest.raises(AdapterNotFoundError):
        resolve("sst-2", entries, model_name=BERT, config={"using": "mine"})


def test_the_default_pointer_may_be_records_too() -> None:
    entries = [entry("a"), entry("b")]
    pointer = {"model_name": BERT, "task": "Sentiment", "subtask": "sst_2", "adapter": "@UKP/b"}
    assert found("sst-2", entries, defaults=[pointer]) == "b:1"
    assert found("sst-2", entries, defaults={(BERT, "sentiment", "sst-2"): "@ukp/b"}) == "b:1"
    assert found("sst-2", EntryIndex(entries, [pointer])) == "b:1"
    with pytest.raises(AmbiguousAdapterError):
        resolve("sst-2", entries, model_name=BERT, defaults={("roberta-base", "sentiment", "sst-2"): "@ukp/b"})


def test_a_name_with_versions_for_two_models_serves_each() -> None:
    entries = [entry(version="1"), entry(version="2", model_name="roberta-base")]
    assert found("@ukp/a", entries) == "a:1"
    assert found("@ukp/a", entries, model_name="roberta-base") == "a:2"
    with pytest.raises(VersionNotFoundError):
        resolve("@ukp/a:2", entries, model_name=BERT)


def test_a_name_reaches_its_versions_whatever_their_task() -> None:
    entries = [entry(version="1", task="nli", subtask="rte"), entry(version="2", created_at="2026-01-01T00:00:00Z")]
    assert found("@ukp/a", entries) == "a:2"
    assert found("@ukp/a:1", entries) == "a:1"
    assert found("rte", entries) == "a:1"


def test_suggestions_forgive_typing_errors() -> None:
    entries = [entry(), entry("b", subtask="imdb"), entry("c", task="nli", subtask="rte")]
    for ref, close in [
        ("sst2", "sentiment/sst-2@ukp"),
        ("sentimnt/sst-2", "sentiment/sst-2@ukp"),
        ("imbd", "sentiment/imdb@ukp"),
    ]:
        with pytest.raises(AdapterNotFoundError) as caught:
            resolve(ref, entries, model_name=BERT)
        assert close in caught.value.suggestions
    with pytest.raises(AdapterNotFoundError) as caught:
        resolve("@ukp/aa", [entry("aaa")], model_name=BERT)
    assert caught.value.suggestions == ["@ukp/aaa"]


def test_an_error_says_what_to_do_next() -> None:
    entries = [entry("a"), entry("b", namespace="other")]
    with pytest.raises(AmbiguousAdapterError) as caught:
        resolve("sst-2", entries, model_name=BERT)
    assert caught.value.candidates == [
        {"id": "sentiment/sst-2@other", "adapter": "@other/b"},
        {"id": "sentiment/sst-2@ukp", "adapter": "@ukp/a"},
    ]
    assert "@other/b" in str(caught.value) and "@namespace" in caught.value.hint
    for candidate in caught.value.candidates:
        assert resolve(candidate["adapter"], entries, model_name=BERT).adapter == candidate["adapter"]


def test_an_entry_that_comes_again_replaces_the_earlier_one() -> None:
    index = EntryIndex([entry(version="1"), entry(version="2")])
    index.add(entry(version="1", license="MIT"))
    assert found("sst-2", index) == "a:2"  # in its place: it is not newer for it
    index.add(entry(version="2", yanked=True))
    assert len(index) == 2
    assert found("sst-2", index) == "a:1"
    index.add(entry(version="2", task="nli", subtask="rte"))
    assert len(list(index)) == len(index) == 2
    assert found("rte", index) == "a:2"
    assert found("sst-2", index) == "a:1"


def test_matching_pairs_alone_names_the_tier() -> None:
    pairs = [("sentiment", "sst-2"), ("nli", "rte"), ("exam", "Sst_2-b")]
    assert match_pairs(parse_reference("sst_2"), pairs) == ("exact", [("sentiment", "sst-2")])
    assert match_pairs(parse_reference("x"), pairs, {"x": "nli"}) == ("alias", [("nli", "rte")])
    assert match_pairs(parse_reference("sst"), pairs) == ("prefix", [("sentiment", "sst-2"), ("exam", "Sst_2-b")])
    assert match_pairs(parse_reference("ss"), pairs) == (None, [])


WORDS = st.sampled_from(["a", "a-b", "a-b-c", "b", "A_b", "c++", "b.c"])
NAMES = st.sampled_from(["a", "A_b", "a-b-c", "b", "c++", "b.c"])  # hubs give a name in one spelling only
ENTRIES = st.lists(
    st.builds(
        lambda namespace, name, version, task, subtask, model, preset, yanked: entry(
            name,
            version,
            namespace=namespace,
            task=task,
            subtask=subtask,
            model_name=model,
            preset=preset,
            yanked=yanked,
        ),
        st.sampled_from(["n", "N2"]),
        NAMES,
        st.sampled_from(["1", "2"]),
        WORDS,
        WORDS,
        st.sampled_from([BERT, "m"]),
        st.sampled_from(["pfeiffer", "houlsby"]),
        st.booleans(),
    ),
    max_size=8,
)


@given(
    ENTRIES,
    WORDS,
    st.sampled_from(["", "/a", "/b", "/a-b"]),
    st.sampled_from(["", "@n"]),
    st.sampled_from([None, "houlsby"]),
)
def test_any_catalogue_gives_one_adapter_or_a_typed_error(
    entries: list[IndexEntry], word: str, rest: str, publisher: str, config: str | None
) -> None:
    ref = f"{word}{rest}{publisher}"
    try:
        one = resolve(ref, entries, model_name=BERT, config=config, aliases={"a": "b"})
    except (AdapterNotFoundError, AmbiguousAdapterError) as error:
        assert len(error.suggestions) <= 5
        if isinstance(error, AmbiguousAdapterError):
            assert len(error.candidates) > 1
            for candidate in error.candidates:
                again = resolve(candidate["adapter"], entries, model_name=BERT, config=config)
                assert again.adapter == candidate["adapter"]
        return
    assert one.model_name == BERT and not one.entry.yanked
    assert one.config == config or config is None
    assert not publisher or one.namespace == "n"
    again = resolve(one.reference, entries, model_name=BERT)
    assert again.entry == one.entry


@given(
    ENTRIES, st.text(max_size=20), st.one_of(st.none(), st.text(max_size=10), st.dictionaries(st.text(), st.integers()))
)
def test_whatever_is_asked_only_errors_of_the_hierarchy_come(entries: list[IndexEntry], ref: str, config: Any) -> None:
    try:
        resolve(ref, entries, model_name=BERT, config=config)
    except AdapterHubError:
        pass


def test_resolving_needs_the_standard_library_only() -> None:
    program = (
        "import sys\n"
        "from adapterhub.spec import EntryIndex, IndexEntry, parse_reference, resolve\n"
        "from adapterhub.spec.index_files import build_index\n"
        "from adapterhub.spec.lookup import look_up\n"
        "entry = IndexEntry('n', 'a', '1', 'm', 't', 's', using='pfeiffer', config={'method': 'lora'})\n"
        "assert resolve('s', [entry], model_name='m', config={'method': 'lora'}).name == 'a'\n"
        "assert resolve('s', [entry], model_name='m', config='pfeiffer').name == 'a'\n"
        "outside = {'pydantic', 'yaml', 'pydantic_core', 'typing_extensions'} & sys.modules.keys()\n"
        "assert not outside, outside\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
