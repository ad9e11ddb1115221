"""The catalogue of the 2020 hub converts in full, and every repair is counted and recorded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from adapterhub.spec import parse_config
from adapterhub.spec.catalogue import Catalogue
from adapterhub.spec.errors import ValidationFailedError
from adapterhub.spec.legacy import REPAIR_KINDS, read_legacy_catalogue, repair_report
from adapterhub.spec.legacy_fields import contact_flaw, github_handle, language_tag, language_tags, twitter_handle

DATA = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
HUB = DATA / "hub-catalogue"

needs_catalogue = pytest.mark.skipif(not HUB.is_dir(), reason="the catalogue is not at hand (ADAPTERHUB_TEST_DATA)")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_legacy_catalogue(HUB)


@needs_catalogue
def test_everything_is_there(catalogue: Catalogue) -> None:
    assert len(catalogue.adapters) == 291
    assert len(catalogue.entries) == 501
    assert len(catalogue.tasks) == 123
    assert len(catalogue.subtasks) == 188
    assert len(catalogue.architectures) == 5
    assert len(catalogue.types) == 2
    assert len(catalogue.organisations) == 8
    assert len(catalogue.defaults) == 201
    assert sum(organisation.adapters for organisation in catalogue.organisations) == 291


@needs_catalogue
def test_every_repair_is_counted(catalogue: Catalogue) -> None:
    counts = catalogue.repair_counts
    assert counts.keys() <= REPAIR_KINDS.keys()
    expected = {
        "dependency": 6,
        "contact-incomplete": 152,
        "contact-several": 1,
        "contact-misspelt": 1,
        "handle-github": 1,
        "handle-twitter": 34,
        "whole-number": 1,
        "inverse-adapter-unrecorded": 134,
        "versions-are-datasets": 1,
        "default-order": 16,
        "task-id": 1,
        "unused-task": 55,
        "unused-subtask": 95,
        "language": 97,
        "bytes-missing": 501,
        "metric-name": 3,
        "head-on-language-adapter": 21,
    }
    assert {kind: counts[kind] for kind in expected} == expected
    report = repair_report(catalogue.repairs)
    assert all(f"| {kind} | {count} |" in report for kind, count in counts.items())
    assert report.count("\n- ") == len(catalogue.repairs)
    sections = {part.split("\n")[0]: part for part in report.split("## ")[1:]}
    assert sections["bytes-missing"].count("` kept\n") == 501  # the address is; only the bytes are not there
    assert sections["whole-number"].count("`2.0` → `2`\n") == 1


@needs_catalogue
def test_all_config_ids_of_the_old_hub_are_kept(catalogue: Catalogue) -> None:
    for adapter in catalogue.adapters:
        committed = json.loads((HUB / "dist/v2/adapters" / adapter.namespace / f"{adapter.name}.json").read_bytes())
        assert adapter.legacy_config_id == committed["config_id"], adapter.adapter
        assert parse_config(adapter.config).config_id == adapter.config_id
        assert [version.version for version in adapter.versions] == sorted(
            committed["files"], key=[version.version for version in adapter.versions].index
        )


@needs_catalogue
def test_two_and_two_point_zero_are_one_config_now(catalogue: Catalogue) -> None:
    by_name = {adapter.adapter: adapter for adapter in catalogue.adapters}
    written_as_float = by_name["@kabirahuja2431/bert-base-multilingual-cased_nli_MultiNLI_adapter_config"]
    assert written_as_float.legacy_config_id == "a6c620158938303a"
    assert written_as_float.config["reduction_factor"] == 2
    assert isinstance(written_as_float.config["reduction_factor"], int)
    same = [adapter for adapter in catalogue.adapters if adapter.config_id == written_as_float.config_id]
    assert {adapter.legacy_config_id for adapter in same} == {"a6c620158938303a", "e15331acc3f0a5c0"}


@needs_catalogue
def test_dependencies_name_one_version_for_the_same_model(catalogue: Catalogue) -> None:
    models = {adapter.adapter: adapter.model_name for adapter in catalogue.adapters}
    dependents = [adapter for adapter in catalogue.adapters if adapter.dependencies]
    assert len(dependents) == 6
    for adapter in dependents:
        for dependency in adapter.dependencies:
            assert models[dependency.adapter] == adapter.model_name
            assert dependency.version
            assert dependency.sha256 is not None and len(dependency.sha256) == 64


@needs_catalogue
def test_the_entry_with_141_data_sets_keeps_its_versions(catalogue: Catalogue) -> None:
    [adapter] = [adapter for adapter in catalogue.adapters if len(adapter.versions) == 141]
    assert adapter.adapter == "@ukp/bert-base-uncased_sts_stackexchange_pfeiffer"
    assert adapter.default_version == "cooking_stackexchange_com"
    [repair] = [repair for repair in catalogue.repairs if repair.kind == "versions-are-datasets"]
    assert "alternative" in repair.after


@needs_catalogue
def test_languages_have_tags(catalogue: Catalogue) -> None:
    tags = {language.task: language.tag for language in catalogue.languages}
    assert tags["zh_yue"] == "yue"
    assert tags["bh"] == "bih"
    assert tags["no"] == "no"
    assert len(tags) == 97
    [estimation] = [subtask for subtask in catalogue.subtasks if subtask.path == "quality_estimation/wmt21"]
    assert estimation.languages == ("en", "de", "zh", "ru", "ro", "et", "si")


@needs_catalogue
def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    for name in ("architectures", "adapters"):
        shutil.copytree(HUB / name, folder / name, copy_function=shutil.copyfile)
        for path in [folder / name, *(folder / name).rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    one, two = sorted((folder / "adapters" / "mlki").glob("*.yaml"))[:2]
    one.write_text(one.read_text().replace("default_version: '1'", "default_version: '9'"))
    two.write_text(two.read_text().replace("using: pfeiffer", "using: nothing") + "\nsurprise: 1\n")
    with pytest.raises(ValidationFailedError) as caught:
        read_legacy_catalogue(folder)
    places = {(problem.file, problem.pointer) for problem in caught.value.problems}
    assert (f"adapters/mlki/{one.name}", "/default_version") in places
    assert (f"adapters/mlki/{two.name}", "/surprise") in places


def test_a_folder_that_is_no_catalogue_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no catalogue"):
        read_legacy_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("text", "handle"),
    [
        ("calpt", "calpt"),
        ("@calpt", "calpt"),
        ("https://github.com/kabirahuja2431", "kabirahuja2431"),
        ("https://github.com/a/b", None),
        ("javascript:alert(1)", None),
    ],
)
def test_github_handles(text: str, handle: str | None) -> None:
    assert github_handle(text) == handle


@pytest.mark.parametrize(
    ("text", "handle"),
    [("@PfeiffJo", "PfeiffJo"), ("arueckle", "arueckle"), ("https://twitter.com/x_y", "x_y"), ("a b", None)],
)
def test_twitter_handles(text: str, handle: str | None) -> None:
    assert twitter_handle(text) == handle


@pytest.mark.parametrize(
    ("email", "flaw"),
    [
        ("a@b.org", None),
        ("pfeiffer@ukp.informatik.tu-darmstadt", "contact-incomplete"),
        ("a@b.org;c@d.org", "contact-several"),
        ("joans@pfeiffer.ai", "contact-misspelt"),
    ],
)
def test_contacts(email: str, flaw: str | None) -> None:
    assert contact_flaw(email) == flaw


def test_language_names() -> None:
    assert language_tag("English") == "en"
    assert language_tag("no") == "no"
    assert language_tag("Klingon spoken here") is None
    assert language_tags("en, de, en") == ("en", "de")
