"""The 587 + 53 reference cases for resolving names, read through the YAML catalogue exactly as a hub imports it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from adapterhub.spec.catalogue import Catalogue
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.index_files import SPLIT_ABOVE, build_index
from adapterhub.spec.legacy import read_legacy_catalogue
from adapterhub.spec.lookup import PartlyListedError, look_up
from adapterhub.spec.reference import fold, parse_reference
from adapterhub.spec.resolution import EntryIndex, Resolution, load_aliases, resolve

DATA = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
CASES: list[dict[str, Any]] = []
if (DATA / "resolution").is_dir():
    CASES = json.loads((DATA / "resolution" / "cases.json").read_bytes())
    CASES += json.loads((DATA / "resolution" / "cases_extra.json").read_bytes())

pytestmark = pytest.mark.skipif(not CASES, reason="the resolution cases are not at hand (ADAPTERHUB_TEST_DATA)")


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from the name of a set of made-up entries (or None) to the catalogue with them in its YAML tree."""

    @cache
    def catalogue(extra: str | None) -> tuple[Catalogue, EntryIndex]:
        folder = DATA / "hub-catalogue"
        if extra is not None:
            folder = tmp_path_factory.mktemp(extra) / "catalogue"
            shutil.copytree(DATA / "hub-catalogue", folder, copy_function=shutil.copyfile)
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            _write_extra(folder, json.loads((DATA / "resolution" / "extra_adapters.json").read_bytes())[extra])
        found = read_legacy_catalogue(folder)
        return found, EntryIndex(found.entries)

    return catalogue


def _write_extra(folder: Path, extra: dict[str, Any]) -> None:
    for adapter in extra["adapters"]:
        file = folder / "adapters" / adapter["namespace"] / f"{adapter['name']}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(adapter["entry"]))
    for pointer in extra["defaults"]:
        file = folder / "dist" / "v2" / "index" / f"{pointer['model_name']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        index = json.loads(file.read_text()) if file.exists() else {}
        namespace, name = pointer["adapter"][1:].split("/")
        default = {"default": f"adapters/{namespace}/{name}.json"}
        index.setdefault(pointer["task"], {}).setdefault(pointer["subtask"], {}).update(default)
        file.write_text(json.dumps(index))


def _answer(case: dict[str, Any], entries: Any, defaults: Any) -> dict[str, Any]:
    """What resolve says, in the shape of `expect`; suggestions beside it."""
    return _told(
        lambda: resolve(
            case["ref"],
            entries,
            model_name=case["model_name"],
            config=case["config"],
            type=case["type"],
            aliases=case["aliases"],
            defaults=defaults,
        )
    )


def _told(ask: Callable[[], Resolution]) -> dict[str, Any]:
    try:
        found = ask()
    except AdapterHubError as error:
        answer: dict[str, Any] = {"error": error.code, "candidates": error.candidates, **error.details}
        if error.code == "NotFound":
            answer["suggestions"] = error.suggestions
        return answer
    ok = {
        "id": found.full_id,
        "namespace": found.namespace,
        "adapter": found.name,
        "version": found.version,
        "architecture": found.config,
        "tier": found.tier,
        "decided_by": found.decided_by,
    }
    return {"ok": ok | ({"hub": found.hub} if found.hub else {}) | ({"sha256": found.sha256} if found.sha256 else {})}


def _sorted(candidates: list[Any]) -> list[str]:
    return sorted(json.dumps(candidate, sort_keys=True) for candidate in candidates)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case_resolves_as_expected(case: dict[str, Any], catalogues: Any) -> None:
    catalogue, index = catalogues(case.get("extra_adapters"))
    answer = _answer(case, index, catalogue.defaults)
    expected = dict(case["expect"])
    if "ok" in expected:
        assert answer == expected
        return
    assert answer["error"] == expected["error"]
    assert _sorted(answer["candidates"]) == _sorted(expected["candidates"])
    if expected["error"] == "NotFound":
        assert sorted(answer["models"]) == sorted(expected["models"])
        assert set(expected["must_suggest"]) <= set(answer["suggestions"])
        assert len(answer["suggestions"]) <= 5
    if expected["error"] == "ModelMismatch":
        assert answer["adapter_model"] == expected["adapter_model"]


def test_a_plain_list_of_entries_gives_the_same_answers_as_an_index(catalogues: Any) -> None:
    catalogue, index = catalogues(None)
    for case in [case for case in CASES if not case.get("extra_adapters")][::12]:
        assert _answer(case, catalogue.entries, catalogue.defaults) == _answer(case, index, catalogue.defaults)


def test_static_index_files_give_the_same_answers(catalogues: Any) -> None:
    """What a client finds through the index files alone is what the whole catalogue says, whether they are split or not and
    whether the aliases are in them or given; only the suggestions and other models of a NotFound, which need the whole, may
    be fewer."""
    compared = 0
    for extra in (None, "publishers", "prefixes", "overrides", "words"):
        catalogue, index = catalogues(extra)
        trees: dict[tuple[str, int], dict[str, bytes]] = {}
        for case in CASES:
            if case.get("extra_adapters") != extra or case["expect"].get("error") == "InvalidReference":
                continue
            here = _answer(case, index, catalogue.defaults)
            for table, split_above in (({}, SPLIT_ABOVE), ({}, 1), (case["aliases"] or {}, 2)):
                key = json.dumps(table, sort_keys=True), split_above
                if key not in trees:
                    trees[key] = dict(
                        build_index(catalogue.entries, catalogue.defaults, aliases=table, split_above=split_above)
                    )
                aliases = None if table else case["aliases"]
                asked: list[list[str]] = []
                there = _told(lambda: _over(trees[key], case, aliases, asked))  # noqa: B023
                for answer in (there, here):
                    answer.pop("suggestions", None)
                    answer.pop("models", None)
                assert there == here, case
                compared += 1
    assert compared > 1350


def _over(
    files: dict[str, bytes], case: dict[str, Any], aliases: dict[str, str] | None, asked: list[list[str]]
) -> Resolution:
    def run(complete: bool) -> Resolution:
        context = {name: case[name] for name in ("model_name", "config", "type")}
        steps = look_up(case["ref"], aliases=aliases, complete=complete, **context)
        try:
            paths = next(steps)
            while True:
                asked.append(paths)
                paths = steps.send({path: files.get(path) for path in paths})
        except StopIteration as finished:
            found: Resolution = finished.value
            return found

    try:
        return run(complete=False)
    except PartlyListedError:
        asked.clear()
        return run(complete=True)


def test_the_shipped_aliases_add_words_and_change_no_answer(catalogues: Any) -> None:
    catalogue, index = catalogues(None)
    aliases = load_aliases()
    plain = [case for case in CASES if case["aliases"] is None and not case.get("extra_adapters")]
    for case in plain:
        assert _answer({**case, "aliases": aliases}, index, catalogue.defaults) == _answer(
            case, index, catalogue.defaults
        )
    for word, target in aliases.items():
        if all(resolves(target, index, model) is None for model in index.model_names):
            continue  # vocabulary without adapters yet
        assert any(resolves(word, index, model, aliases) for model in index.model_names), word


def resolves(ref: str, index: EntryIndex, model: str, aliases: dict[str, str] | None = None) -> str | None:
    """The error code or id a reference gives, None where there is nothing."""
    try:
        return resolve(ref, index, model_name=model, aliases=aliases).full_id
    except AdapterHubError as error:
        return None if error.code == "NotFound" else error.code


def test_names_of_the_whole_catalogue_fit_the_grammar_and_fold_to_distinct_keys(catalogues: Any) -> None:
    catalogue, _ = catalogues(None)
    names = {entry.adapter for entry in catalogue.entries}
    assert len(names) == len({fold(name) for name in names}) == 291
    for entry in catalogue.entries:
        assert parse_reference(f"{entry.adapter}:{entry.version}").version == entry.version
        assert parse_reference(entry.id).subtask == entry.subtask.lower()
