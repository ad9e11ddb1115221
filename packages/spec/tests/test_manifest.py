"""Manifests: built from folders, named by their digest, refused with every problem told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from packages.spec.tests.folders import edit, write_folder

from adapterhub.spec import (
    InvalidManifestError,
    Manifest,
    ValidationFailedError,
    build_manifest,
    load_preset,
    parse_config,
    preset_names,
)
from adapterhub.spec.canonical import canonical_json
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.manifest import index_entry, manifest_problems
from adapterhub.spec.packaging import default_name, preset_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "sst-2")


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    return build_manifest(
        folder, reference="sentiment/sst-2@ukp:1.0", license="Apache-2.0", created_at="2026-01-02T03:04:05Z"
    )


def test_a_folder_becomes_a_manifest(manifest: Manifest, folder: Path) -> None:
    assert (manifest.namespace, manifest.task, manifest.subtask, manifest.version) == (
        "ukp",
        "sentiment",
        "sst-2",
        "1.0",
    )
    assert manifest.name == "bert-base-uncased-sentiment-sst-2-pfeiffer"
    assert manifest.full_id == "sentiment/sst-2@ukp" and manifest.using == "pfeiffer"
    for record in manifest.files:
        data = (folder / record.path).read_bytes()
        assert record.size == len(data) and record.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert {record.path for record in manifest.files} == {path.name for path in folder.iterdir()}
    assert [(t.name, t.shape) for t in manifest.tensors][:2] == [
        ("encoder.0.ffn.down.bias", (2,)),
        ("encoder.0.ffn.down.weight", (2, 24)),
    ]
    assert manifest.head is not None and manifest.head["label2id"] == {"neg": 0, "pos": 1}


def test_the_digest_is_that_of_the_canonical_text_and_survives_any_spelling(manifest: Manifest) -> None:
    data = manifest.canonical_bytes()
    assert manifest.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert Manifest.from_bytes(data) == manifest
    shuffled = dict(reversed(list(json.loads(data).items())))
    respelt = json.dumps(shuffled, indent=4).replace('"size": 0', '"size": 0.0').encode()
    assert Manifest.from_bytes(respelt).digest == manifest.digest
    assert canonical_json(json.loads(data)).encode() == data


def test_a_manifest_gives_its_index_line(manifest: Manifest) -> None:
    entry = index_entry(manifest, default_version="1.0", yanked=True, yanked_reason="wrong labels")
    assert IndexEntry.from_json(json.loads(entry.to_json_line())) == entry
    assert entry.digest == manifest.digest and entry.id == "sentiment/sst-2@ukp" and entry.yanked
    assert entry.config_id == parse_config(manifest.config).config_id and entry.size == manifest.size


@pytest.mark.parametrize(
    ("change", "pointer", "told"),
    [
        ({"task": None}, "/task", "both or not at all"),
        ({"version": None}, "/version", "required"),
        ({"extra": 1}, "/extra", "not permitted"),
        ({"namespace": "sha256"}, "/namespace", "reserved"),
        ({"namespace": "../x"}, "/namespace", "pattern"),
        ({"name": "a\n"}, "/name", "pattern"),
        ({"created_at": "2026-02-30T00:00:00Z"}, "/created_at", "no such date"),
        ({"created_at": "2026-02-03"}, "/created_at", "pattern"),
        ({"type": "text"}, "/type", "text_task"),
        ({"config_id": "sha256:" + "0" * 64}, "/config_id", "does not belong"),
        ({"method": "lora"}, "/method", "the config says"),
        ({"config": {"method": "bottleneck"}}, "/config", "expanded"),
        ({"config": {"method": "bottleneck", "mh_adapter": "yes"}}, "/config/mh_adapter", "boolean"),
        ({"head": {"head_type": "classification"}}, "/head", "expanded"),
        ({"head": {"head_type": "oracle"}}, "/head/head_type", "classification"),
        ({"license": "you may <b>use</b> it"}, "/license", "pattern"),
        ({"languages": ["english language"]}, "/languages/0", "pattern"),
        ({"metrics": [{"name": "f1", "value": "high"}]}, "/metrics/0/value", "number"),
        ({"metrics": [{"name": "f1"}]}, "/metrics/0/value", "required"),
        ({"description": "a\u202eb"}, "/description", "invisible"),
        ({"authors": [""]}, "/authors/0", "at least 1"),
        ({"base_model": {"name": "a/b/c"}}, "/base_model/name", "pattern"),
        ({"spec_version": "2.0"}, "/spec_version", "1.0"),
        ({"files": []}, "/files", "at least 1"),
    ],
)
def test_what_breaks_the_schema_is_refused_with_the_place(
    manifest: Manifest, change: dict[str, Any], pointer: str, told: str
) -> None:
    document = {**manifest.to_json(), **change}
    for key, value in change.items():
        if value is None:
            document.pop(key)
    problems = manifest_problems(json.dumps(document, indent=1).encode())
    assert any(problem.pointer == pointer and told in problem.message for problem in problems), problems
    with pytest.raises(InvalidManifestError) as caught:
        Manifest.from_json(document)
    assert caught.value.details["problems"]


@pytest.mark.parametrize(
    "path", ["../x.json", "/x.json", "a//b.json", ".hidden.json", "CON.json", "a\\b.json", "a b.md"]
)
def test_paths_that_do_not_travel_are_refused(manifest: Manifest, path: str) -> None:
    document = manifest.to_json()
    document["files"][0] = {**document["files"][0], "path": path}
    document["tensors"] = []
    assert any(problem.pointer == "/files/0/path" for problem in manifest_problems(json.dumps(document).encode()))


def test_all_problems_are_told_at_once_with_their_lines(manifest: Manifest) -> None:
    document = {**manifest.to_json(), "license": "<", "version": "1 0", "method": "lora", "subtask": None}
    document["config"] = {**document["config"], "mh_adapter": 3, "more": 1}
    document["head"] = {**document["head"], "num_labels": 5}
    document["tensors"] = [*document["tensors"], document["tensors"][0], {**document["tensors"][0], "file": "x.json"}]
    document["files"] = [*document["files"], {**document["files"][0], "path": document["files"][0]["path"].upper()}]
    count = len(manifest.tensors)
    problems = manifest_problems(json.dumps(document, indent=1).encode())
    assert {problem.pointer for problem in problems} == {
        "/license",
        "/version",
        "/subtask",
        "/method",
        "/config/mh_adapter",
        "/config/more",
        "/head",
        f"/tensors/{count}/name",
        f"/tensors/{count + 1}/file",
        f"/files/{len(manifest.files)}/path",
    }
    assert all(problem.line and problem.line > 1 for problem in problems)
    with pytest.raises(ValueError, match="task and subtask"):
        Manifest(**{**dict(manifest), "task": None})


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a":1,"a":2}', b"\xff", b" " * (1 << 21), b"[" * 5000])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidManifestError):
        Manifest.from_bytes(data)


def test_the_parts_of_the_name_come_from_reference_arguments_or_folder(folder: Path) -> None:
    edit(folder, task="Sentiment", subtask="SST-2")
    built = build_manifest(folder, reference="@acme/mine:7")
    assert (built.name, built.task, built.subtask, built.version) == ("mine", "Sentiment", "SST-2", "7")
    built = build_manifest(folder, namespace="acme", task="nli", subtask="rte", model_name="org/model", version="2")
    assert built.adapter == "@acme/model-nli-rte-pfeiffer" and built.base_model.name == "org/model"


def test_what_is_missing_is_told(folder: Path) -> None:
    with pytest.raises(InvalidManifestError, match="who publishes"):
        build_manifest(folder, reference="sentiment/sst-2")
    with pytest.raises(InvalidManifestError, match="is a word"):
        build_manifest(folder, reference="sst-2@ukp")
    with pytest.raises(InvalidManifestError, match="half said"):
        build_manifest(folder, reference="@ukp/x", task="sentiment")
    edit(folder, base_model={})
    with pytest.raises(InvalidManifestError, match="base model"):
        build_manifest(folder, reference="sentiment/sst-2@ukp")
    (folder / "adapter.safetensors").write_bytes(b"\x80\x02}.")
    with pytest.raises(ValidationFailedError) as caught:
        build_manifest(folder, reference="sentiment/sst-2@ukp", model_name="x")
    assert caught.value.problems[0]["file"] == "adapter.safetensors"


def test_every_preset_is_recognised_and_hyper_parameters_do_not_hide_it() -> None:
    for name in preset_names():
        config = load_preset(name)
        assert load_preset(preset_of(config) or "").config_id == config.config_id
        assert preset_of(config, named=name) == name
    assert preset_of(load_preset("houlsby", reduction_factor=2, non_linearity="gelu")) == "houlsby"
    assert preset_of(load_preset("pfeiffer", ln_before=True)) is None
    assert preset_of(load_preset("pfeiffer"), named="houlsby") == "pfeiffer"


def test_default_names_follow_the_grammar() -> None:
    made = default_name("facebook/bart-large", ("QA", "squad v2"), "pfeiffer+inv")
    assert made == "bart-large-qa-squad-v2-pfeiffer+inv"
    assert len(default_name("m" * 100, ("t" * 60, "s" * 60), "c")) <= 128


def test_an_adapter_may_be_for_no_task(folder: Path) -> None:
    built = build_manifest(folder, reference="@acme/mine")
    assert (built.task, built.subtask, built.full_id) == (None, None, "@acme/mine")
    entry = index_entry(built)
    assert (entry.task, entry.subtask, entry.id) == ("", "", "@acme/mine")
    assert IndexEntry.from_json(json.loads(entry.to_json_line())) == entry
    assert Manifest.from_bytes(built.canonical_bytes()) == built
    assert build_manifest(folder, namespace="acme").name == "bert-base-uncased-sst-2-pfeiffer"


def test_what_the_folder_says_of_itself_is_taken_unless_given(folder: Path) -> None:
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: de\ndatasets:\n- sst2\nauthors: [A, B]\ndescription: Short.\ntags: []\n---\n# x\n"
    )
    (folder / "training.json").write_text('{"data": "reviews.csv", "metrics": {"accuracy": 0.5, "note": "x"}}')
    built = build_manifest(folder, reference="sentiment/sst-2@ukp")
    assert (built.license, built.languages, built.datasets, built.authors) == (
        "apache-2.0",
        ("de",),
        ("sst2",),
        ("A", "B"),
    )
    assert [(m.name, m.value, m.dataset, m.split) for m in built.metrics] == [
        ("accuracy", 0.5, "reviews.csv", "validation")
    ]
    assert built.description == "Short."
    given = build_manifest(folder, reference="sentiment/sst-2@ukp", license="MIT", metrics=[], languages=["en"])
    assert (given.license, given.metrics, given.languages) == ("MIT", (), ("en",))
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert build_manifest(folder, reference="sentiment/sst-2@ukp").license is None
    (folder / "README.md").write_text("---\nlicense: free for all of you\n---\n")
    with pytest.raises(InvalidManifestError, match="license"):
        build_manifest(folder, reference="sentiment/sst-2@ukp")
