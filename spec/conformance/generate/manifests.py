"""Vectors of manifests (SPEC.md chapter 12): valid ones with digest and index entry, invalid ones with their problems."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from writing import CONFORMANCE, numbered, write

from adapterhub.spec import Manifest, load_preset
from adapterhub.spec.canonical import digest_of
from adapterhub.spec.heads import parse_head
from adapterhub.spec.manifest import index_entry, manifest_problems


def base(preset: str = "pfeiffer", **changes: Any) -> dict[str, Any]:
    """A small valid manifest."""
    config = load_preset(preset)
    weights = {
        "path": "adapter.safetensors",
        "size": 1616,
        "digest": digest_of(b"weights"),
        "media_type": "application/vnd.safetensors",
    }
    record = {
        "path": "adapter_config.json",
        "size": 900,
        "digest": digest_of(b"config"),
        "media_type": "application/json",
    }
    manifest = {
        "spec_version": "1.0",
        "namespace": "ukp",
        "name": "bert-base-uncased-sentiment-sst-2-pfeiffer",
        "version": "1.0",
        "task": "sentiment",
        "subtask": "sst-2",
        "type": "text_task",
        "base_model": {"name": "bert-base-uncased", "revision": None, "family": "bert", "hidden_size": 768},
        "method": config.method,
        "using": preset,
        "config": config.expand(),
        "config_id": config.config_id,
        "head": None,
        "files": [weights, record],
        "tensors": [
            {"file": "adapter.safetensors", "name": "encoder.0.ffn.down.weight", "dtype": "F32", "shape": [48, 768]}
        ],
        "license": "Apache-2.0",
        "languages": ["en"],
        "datasets": ["sst2"],
        "metrics": [{"name": "accuracy", "value": 0.9232, "dataset": "sst2", "split": "validation"}],
        "description": "Trained on SST-2.",
        "citation": "",
        "authors": ["Jonas Pfeiffer"],
        "dependencies": [],
        "library": {"name": "adapterhub-core", "version": "0.1.0"},
        "created_at": "2026-01-02T03:04:05Z",
    }
    return {**manifest, **changes}


HEAD = parse_head({"head_type": "classification", "num_labels": 2, "label2id": {"negative": 0, "positive": 1}}).expand()

#: (why, manifest)
VALID = [
    ("a task adapter", base()),
    ("with a head", base(head=HEAD)),
    ("a language adapter", base("pfeiffer+inv", type="text_lang", task="de", subtask="wiki", name="mbert-de", languages=["de", "zh-Hant", "yue"])),
    ("a union of methods", base("mam")),
    ("text in many scripts", base(description="Größe, размер, サイズ\n\"quoted\" \\ <b>not markup</b>", authors=["Rücklé", "李", "علی\u200cرضا"])),
    ("with dependencies", base(dependencies=[{"reference": "en/wiki@ukp:1", "digest": digest_of(b"x"), "description": None}])),
    ("an owner's model", base(base_model={"name": "facebook/bart-large", "revision": "cb48c13", "family": "bart", "hidden_size": 1024})),
    ("figures of all sizes", base(metrics=[{"name": "loss", "value": value, "dataset": None, "split": None} for value in (0, -1.5, 1e-7, 1e21, 92.0)])),
    ("for no task", base(task=None, subtask=None, name="mine")),
    ("what may be left out is", {key: value for key, value in base().items() if key not in ("license", "languages", "datasets", "metrics", "description", "citation", "authors", "dependencies", "library", "head", "using")}),
]  # fmt: skip

OTHER = load_preset("houlsby")
#: (why, manifest, pointers, whether the JSON Schema alone finds it)
INVALID = [
    ("a subtask of no task", {k: v for k, v in base().items() if k != "task"}, ["/task"], True),
    ("a task without a subtask", base(subtask=None), ["/subtask"], True),
    ("several problems at once", base(license="<b>", method="lora", subtask=None, head={**HEAD, "num_labels": 5}, config={**base()["config"], "x": 1}), ["/license", "/method", "/subtask", "/head", "/config/x"], True),
    ("no name", {k: v for k, v in base().items() if k != "name"}, ["/name"], True),
    ("an unknown member", base(downloads=5), ["/downloads"], True),
    ("a later specification", base(spec_version="2.0"), ["/spec_version"], True),
    ("a namespace that climbs", base(namespace="../ukp"), ["/namespace"], True),
    ("the reserved namespace", base(namespace="sha256"), ["/namespace"], False),
    ("a name with a blank", base(name="my adapter"), ["/name"], True),
    ("a name that ends in a dot", base(name="adapter."), ["/name"], True),
    ("a name with a line end", base(name="adapter\n"), ["/name"], True),
    ("a look-alike letter", base(subtask="\u0455st-2"), ["/subtask"], True),
    ("a version with a colon", base(version="1:2"), ["/version"], True),
    ("a version that is a number", base(version=1), ["/version"], True),
    ("an unknown type", base(type="text"), ["/type"], True),
    ("a model with three parts", base(base_model={"name": "a/b/c"}), ["/base_model/name"], True),
    ("a short digest", base(config_id="sha256:abc"), ["/config_id"], True),
    ("the id of another config", base(config_id=OTHER.config_id), ["/config_id"], False),
    ("a config that is not expanded", base(config={"method": "bottleneck"}), ["/config"], False),
    ("a config with an unknown field", base(config={**base()["config"], "x": 1}), ["/config/x"], True),
    ("another method than the config's", base(method="lora"), ["/method"], False),
    ("no files", base(files=[], tensors=[]), ["/files"], True),
    ("a path that climbs", base(files=[{**base()["files"][0], "path": "../x.safetensors"}], tensors=[]), ["/files/0/path"], True),
    ("an absolute path", base(files=[{**base()["files"][0], "path": "/x.safetensors"}], tensors=[]), ["/files/0/path"], True),
    ("a device for a path", base(files=[{**base()["files"][0], "path": "NUL.json"}], tensors=[]), ["/files/0/path"], False),
    ("two files of one name", base(files=[base()["files"][0], {**base()["files"][0], "path": "Adapter.safetensors"}]), ["/files/1/path"], False),
    ("a negative size", base(files=[{**base()["files"][0], "size": -1}]), ["/files/0/size"], True),
    ("a fractional size", base(files=[{**base()["files"][0], "size": 1.5}]), ["/files/0/size"], True),
    ("a tensor in no file", base(tensors=[{**base()["tensors"][0], "file": "other.safetensors"}]), ["/tensors/0/file"], False),
    ("a tensor twice", base(tensors=base()["tensors"] * 2), ["/tensors/1/name"], False),
    ("an unknown dtype", base(tensors=[{**base()["tensors"][0], "dtype": "float32"}]), ["/tensors/0/dtype"], True),
    ("a negative dimension", base(tensors=[{**base()["tensors"][0], "shape": [-1]}]), ["/tensors/0/shape/0"], True),
    ("a metric without a value", base(metrics=[{"name": "f1"}]), ["/metrics/0/value"], True),
    ("a figure in words", base(metrics=[{"name": "f1", "value": "high"}]), ["/metrics/0/value"], True),
    ("a licence in prose", base(license="free for everybody"), ["/license"], True),
    ("a language in words", base(languages=["English language"]), ["/languages/0"], True),
    ("a hidden direction change", base(description="good\u202edab"), ["/description"], False),
    ("an author behind a direction mark", base(authors=["A\u202eB"]), ["/authors/0"], False),
    ("an author without a name", base(authors=[""]), ["/authors/0"], True),
    ("no such day", base(created_at="2026-02-30T00:00:00Z"), ["/created_at"], False),
    ("a time elsewhere", base(created_at="2026-02-03T00:00:00+01:00"), ["/created_at"], True),
    ("a head that makes no sense", base(head={**HEAD, "num_labels": 5}), ["/head"], False),
]  # fmt: skip

#: (why, bytes): texts that are no manifest whatever they mean
BROKEN = [
    ("nothing", b""),
    ("a list", b"[]"),
    ("a member twice", b'{"spec_version": "1.0", "spec_version": "1.0"}'),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(base()).encode()),
    ("UTF-16", json.dumps(base()).encode("utf-16")),
    ("not UTF-8", json.dumps(base()).encode().replace(b"Jonas", b"Jon\xe9s")),
    ("a lone surrogate", json.dumps(base()).encode().replace(b"Jonas", b"\\ud800")),
    ("not a number", json.dumps(base()).encode().replace(b"0.9232", b"NaN")),
    ("beyond a double", json.dumps(base()).encode().replace(b"0.9232", b"1e999")),
    ("a comma too many", json.dumps(base()).encode()[:-1] + b",}"),
    ("text behind it", json.dumps(base()).encode() + b"x"),
    ("too deep", b"[" * 200 + b"]" * 200),
]


def documents() -> dict[str, Any]:
    valid = []
    for why, document in VALID:
        manifest = Manifest.from_json(document)
        assert manifest_problems(json.dumps(document).encode()) == [], why
        entry = index_entry(manifest).to_json()
        valid.append({"why": why, "manifest": document, "digest": manifest.digest, "index_entry": entry})
    invalid = []
    for why, document, pointers, schema in INVALID:
        found = {problem.pointer for problem in manifest_problems(json.dumps(document).encode())}
        assert found and set(pointers) <= found, (why, found)
        invalid.append({"why": why, "manifest": document, "pointers": pointers, "schema": schema})
    broken = []
    for why, data in BROKEN:
        assert manifest_problems(data), why
        broken.append({"why": why, "base64": base64.b64encode(data).decode()})
    return {
        "about": "valid: digest is the SHA-256 of the canonical text with every member present (SPEC.md 12); index_entry is "
        "its index entry (14.1). invalid: pointers of problems a validator must tell, at least; schema: whether the JSON "
        "Schema alone finds it. broken: bytes that are no manifest.",
        "valid": numbered("manifest", valid),
        "invalid": numbered("no-manifest", invalid),
        "broken": numbered("broken-manifest", broken),
    }


def main(folder: Path = CONFORMANCE) -> None:
    write(folder, "manifests/manifests.json", documents())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
