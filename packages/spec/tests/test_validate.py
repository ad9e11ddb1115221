"""Validation of folders and documents, and the command line over it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packages.spec.tests.folders import edit, safetensors, write_folder

from adapterhub.spec import ValidationFailedError, build_manifest, load_preset, validate_path
from adapterhub.spec.__main__ import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "adapter")


def told(folder: Path) -> str:
    return "\n".join(str(problem) for problem in validate_path(folder))


def test_a_saved_adapter_is_fine_and_so_are_its_parts(folder: Path) -> None:
    assert validate_path(folder) == []
    for path in folder.iterdir():
        assert validate_path(path) == [], path


@pytest.mark.parametrize("preset", ["pfeiffer", "lora", "prefix", "mam"])
def test_documents_are_told_apart_by_what_they_are(preset: str, folder: Path, tmp_path: Path) -> None:
    config = load_preset(preset)
    documents: dict[str, Any] = {
        "config.json": config.expand(),
        "manifest.json": build_manifest(folder, reference="a/b@c").to_json(),
    }
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
        assert validate_path(tmp_path / name) == []
    (tmp_path / "config.json").write_text(json.dumps({**config.expand(), "surprise": 1}, indent=1))
    (problem,) = validate_path(tmp_path / "config.json")
    assert problem.pointer == "/surprise" and problem.line


def test_files_that_do_not_belong_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_adapter.bin").write_bytes(b"\x80\x02}.")
    (folder / "train.py").write_text("print()")
    (folder / "link.txt").symlink_to("/etc/passwd")
    (folder / "nul.md").write_text("x")
    (folder / "bad.md").write_bytes(b"\xff\xfe")
    text = told(folder)
    for part in ("pytorch_adapter.bin", "Pickled", "train.py", "link.txt: only regular files", "nul.md", "bad.md:1"):
        assert part in text
    assert "passwd" not in text
    os.mkfifo(tmp_path / "pipe.json")
    assert "neither a file nor a folder" in told(tmp_path / "pipe.json")


@pytest.mark.parametrize(
    "name", ["é.md", "_x.md", "x y.txt", "a/b/c/d/e.json", f"{'a' * 120}/{'b' * 120}/{'c' * 20}.md"]
)
def test_files_no_manifest_can_name_are_told_before_anything_is_published(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    told = validate_path(folder)
    assert [problem.file for problem in told] == [name] and "path" in told[0].message
    with pytest.raises(ValidationFailedError):
        build_manifest(folder, reference="sentiment/sst-2@ukp")


def test_config_weights_and_head_must_fit_together(folder: Path) -> None:
    edit(folder, config_id="sha256:" + "0" * 64)
    assert "does not belong to the config" in told(folder)
    write_folder(folder, load_preset("pfeiffer", bottleneck_size=3, reduction_factor=None))
    assert "bottleneck of 2, the config says 3" in told(folder)
    write_folder(folder, load_preset("pfeiffer", reduction_factor=12))
    (folder / "adapter.safetensors").write_bytes(
        safetensors({"encoder.0.ffn.down.weight": (2, 24), "encoder.0.ffn.up.weight": (24, 3)})
    )
    assert "not down [b, d] and up [d, b]" in told(folder)
    (folder / "adapter.safetensors").write_bytes(
        safetensors({"encoder.0.ffn.down.weight": (1, 23), "encoder.0.ffn.up.weight": (23, 1)})
    )
    assert "reads 23 numbers, the base model has 24" in told(folder)
    (folder / "adapter.safetensors").write_bytes(safetensors({"a/../b": (2,)}, dtype="I32"))
    assert "is no key of bottleneck" in told(folder) and "dtype I32" in told(folder)
    write_folder(folder)
    (folder / "head.safetensors").write_bytes(safetensors({"layers.out.weight": (3, 24), "classifier.bias": (2,)}))
    assert "gives 3 numbers, the config has num_labels 2" in told(folder)
    assert "'classifier.bias' is no key of a head of type classification" in told(folder)
    (folder / "head.safetensors").unlink()
    assert "there is no head.safetensors" in told(folder)
    (folder / "head_config.json").write_text('{"head_type": "classification", "label2id": {"a": 1}}')
    assert "label2id" in told(folder)


def test_foreign_and_broken_configs_are_explained(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"config": {"reduction_factor": 16}, "model_name": "x"}')
    assert "not a native adapter config" in told(folder) and "convert" in told(folder)
    (folder / "adapter_config.json").write_text('{"spec_version": "1.0", "spec_version": "1.0"}')
    assert "twice" in told(folder)
    (folder / "adapter_config.json").unlink()
    assert "there is no adapter_config.json" in told(folder)


def test_index_files_are_checked_line_by_line(folder: Path, tmp_path: Path) -> None:
    from adapterhub.spec.manifest import index_entry

    line = index_entry(build_manifest(folder, reference="a/b@c")).to_json_line()
    path = tmp_path / "x.jsonl"
    path.write_text(f"{line}\n{line}\n")
    assert validate_path(path) == []
    path.write_text(f'{line}\n{{"v": 1}}\n[]\n{line[:-1]}\n')
    assert [problem.line for problem in validate_path(path)] == [2, 3, 4]


def test_the_command_lists_every_problem_and_exits_by_the_result(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(folder)]) == 0
    assert capsys.readouterr().out.strip().endswith("fine")
    edit(folder, library={"name": ""}, surprise=1)
    assert main(["validate", str(folder)]) == 1
    text = capsys.readouterr().out
    for part in ("3 problems", "/library/name", "/library/version", "/surprise", "adapter_config.json:1", "→"):
        assert part in text
    assert main(["validate", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False and len(report["problems"]) == 3
    assert {"pointer", "message", "severity", "file", "line"} <= set(report["problems"][0])
    assert main(["validate", str(tmp_path / "nothing-here")]) == 2
    with pytest.raises(SystemExit) as caught:
        main(["validate"])
    assert caught.value.code == 2


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize(
    ("value", "odd"), [("nan", True), ("inf", True), ("-inf", True), ("max", False), ("min", False), ("-0.0", False)]
)
def test_numbers_that_are_not_finite_are_found_in_every_dtype(dtype: str, value: str, odd: bool, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    kind = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}[dtype]
    limits = torch.finfo(kind)
    number = limits.max if value == "max" else limits.min if value == "min" else float(value)
    tensors = {
        "encoder.0.ffn.down.weight": torch.randn(2, 24).to(kind),
        "encoder.0.ffn.up.weight": torch.randn(24, 2).to(kind),
    }
    tensors["encoder.0.ffn.up.weight"][17, 1] = number
    save_file(tensors, folder / "adapter.safetensors")
    assert ("'encoder.0.ffn.up.weight' holds NaN or infinity" in told(folder)) is odd
    assert "down.weight' holds" not in told(folder)


def test_names_cannot_command_the_terminal(folder: Path) -> None:
    (folder / "\x1b[31mred.md").write_text("x")
    (folder / os.fsdecode(b"\xff\xfe.md")).write_text("x")
    for flags in ([], ["--json"]):
        line = [sys.executable, "-m", "adapterhub.spec", "validate", str(folder), *flags]
        for encoding in ("utf-8", "ascii"):
            done = subprocess.run(line, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
            assert done.returncode == 1 and b"\x1b" not in done.stdout and b"[31mred" in done.stdout, done.stderr


def test_references_and_headers_are_read_without_pydantic() -> None:
    program = (
        "import sys; from adapterhub.spec import parse_reference; import adapterhub.spec.safetensors_header;"
        "print(any(name.split('.')[0] in ('pydantic', 'yaml') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_fusions_setups_and_folders_of_adapters_are_checked(tmp_path: Path) -> None:
    from adapterhub.spec.fusion import FusionConfig

    fusion = tmp_path / "setup" / "a,b"
    fusion.mkdir(parents=True)
    document = {"spec_version": "1.0", "format": "adapterhub", "name": "a,b", "adapters": ["a", "b"]}
    (fusion / "fusion_config.json").write_text(json.dumps({**document, "config": FusionConfig().expand()}))
    (fusion / "fusion.safetensors").write_bytes(safetensors({"encoder.0.ffn.query.weight": (24, 24)}))
    assert validate_path(fusion) == []
    for name in "ab":
        write_folder(tmp_path / "setup" / name)
    assert validate_path(tmp_path / "setup") == []
    setup = {"adapter_setup": {"type": "Fuse", "children": ["a", "b"]}, "adapters": {"a": "a", "b": "b"}}
    (tmp_path / "setup" / "adapter_setup.json").write_text(json.dumps({**setup, "fusions": {"a,b": "a,b"}}))
    assert validate_path(tmp_path / "setup") == []
    edit(tmp_path / "setup" / "a", surprise=1)
    (fusion / "fusion_config.json").write_text(json.dumps({**document, "adapters": [], "config": {"keys": True}}))
    (fusion / "fusion.safetensors").write_bytes(safetensors({"encoder.0.ffn.down.weight": (24, 24)}))
    text = told(tmp_path / "setup")
    for part in ("a/adapter_config.json", "/surprise", "/adapters", "/config/keys", "no key of a fusion"):
        assert part in text
    (tmp_path / "setup" / "adapter_setup.json").write_text(json.dumps({**setup, "adapters": {"a": "../x"}}))
    assert "there is no sub-folder '../x'" in told(tmp_path / "setup")


@pytest.mark.parametrize(
    ("record", "pointer"),
    [
        ({"task": "sentiment", "type": "text_task", "display_name": "Sentiment"}, None),
        ({"task": "sentiment", "display_name": 3}, "/display_name"),
        ({"task": "sentiment", "subtask": "sst-2", "display_name": "SST-2", "languages": ["en"]}, None),
        ({"task": "sentiment", "subtask": "sst 2", "display_name": "SST-2"}, "/subtask"),
        ({"tag": "yue", "name": "Cantonese", "task": "zh_yue"}, None),
        ({"tag": "Cantonese language"}, "/tag"),
        ({"namespace": "ukp", "display_name": "UKP Lab", "adapters": 3}, None),
        ({"namespace": "ukp", "display_name": "UKP Lab", "adapters": -3}, "/adapters"),
        ({"name": "pfeiffer", "display_name": "Pfeiffer", "config": {}, "config_id": "sha256:0"}, None),
        ({"id": "text_task", "display_name": "Task", "more": 1}, "/more"),
    ],
)
def test_the_hubs_own_catalogue_records_are_checked(
    record: dict[str, Any], pointer: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record, indent=1))
    problems = validate_path(path)
    assert [problem.pointer for problem in problems] == ([] if pointer is None else [pointer])
    assert all(problem.line for problem in problems)
