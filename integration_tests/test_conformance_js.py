"""A second implementation, in JavaScript and without Python, passes every conformance vector."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import string
import struct
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

from adapterhub.spec import (
    AdapterHubError,
    IndexEntry,
    canonical_json,
    fold,
    format_reference,
    load_preset,
    parse_config,
    parse_reference,
    resolve,
)

PROGRAM = Path(__file__).parent / "conformance_js"
SPEC = Path(__file__).parents[1] / "spec"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with its dependencies beside it; these are installed once and used again by later runs. Without a
    package registry they are not there, and only the schemas go unchecked."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed: the second implementation is not run")
    major = int(
        subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0]
    )
    if major < 20:
        pytest.skip(f"Node.js {major} is too old: the second implementation needs 20")
    folder = tmp_path_factory.mktemp("conformance_js")
    for file in PROGRAM.glob("*.mjs"):
        shutil.copyfile(file, folder / file.name)
    installed = _installed()
    if isinstance(installed, Path):
        (folder / "node_modules").symlink_to(installed / "node_modules")
    else:
        warnings.warn(f"the second implementation does not check the schemas: {installed}", stacklevel=1)
    return folder


def _installed() -> Path | str:
    """A folder with the dependencies, complete from the moment it is there, so that several processes may ask for it; or why
    there is none."""
    npm = shutil.which("npm")
    key = hashlib.sha256((PROGRAM / "package.json").read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"adapterhub-conformance-{os.getuid()}-{key}"
    if not folder.is_dir():
        if npm is None:
            return "npm is not installed"
        fresh = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
        shutil.copyfile(PROGRAM / "package.json", fresh / "package.json")
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        try:
            subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=180, check=True)
        except subprocess.SubprocessError as error:
            shutil.rmtree(fresh)
            return f"the package registry is out of reach: {error} {str(error.stderr or '').strip()[-200:]}"
        try:
            fresh.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(fresh)
    return folder if folder.stat().st_uid == os.getuid() else f"{folder} belongs to somebody else"


def _run(program: Path, spec: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", "run.mjs", "--json", "--spec", str(spec)]
    if not (program / "node_modules").exists():
        command.append("--without-schemas")
    return subprocess.run(command, cwd=program, capture_output=True, text=True, timeout=120)


def test_the_second_implementation_passes_every_vector(program: Path) -> None:
    finished = _run(program, SPEC)
    report: dict[str, Any] = json.loads(finished.stdout)
    failed = {name: group["failed"] for name, group in report["groups"].items() if group["failed"]}
    assert failed == {} and finished.returncode == 0, failed
    passed = {name: group["passed"] for name, group in report["groups"].items()}
    for name in (
        "canonical JSON",
        "config ids",
        "references",
        "resolution",
        "index lines",
        "numerics bottleneck",
        *(["schema preset"] if (program / "node_modules").exists() else []),
    ):
        assert passed[name] >= 10, passed


def test_all_but_the_schemas_is_checked_without_any_package(program: Path, tmp_path: Path) -> None:
    for file in PROGRAM.glob("*.mjs"):
        shutil.copyfile(file, tmp_path / file.name)
    groups = json.loads(_run(tmp_path, SPEC).stdout)["groups"]
    assert len(groups) > 20 and not any(name.startswith("schema ") for name in groups)


def test_a_wrong_vector_makes_it_fail(program: Path, tmp_path: Path) -> None:
    """The program can fail: it is given vectors with one wrong expectation of each kind."""
    spec = tmp_path / "spec"
    shutil.copytree(SPEC, spec)
    for path, old, new in [
        ("conformance/references/references.json", '"key": "sst-2"', '"key": "sst_2"'),
        ("conformance/resolution/cases.json", '"decided_by": "default"', '"decided_by": "unique"'),
        ("conformance/canonical/canonical.json", '"canonical": "3.5"', '"canonical": "3.50"'),
        ("conformance/numerics/bottleneck.json", '"original_ln_after": true', '"original_ln_after": false'),
    ]:
        text = (spec / path).read_text()
        assert old in text
        (spec / path).write_text(text.replace(old, new))
    finished = _run(program, spec)
    failed = {name for name, group in json.loads(finished.stdout)["groups"].items() if group["failed"]}
    assert finished.returncode == 1
    assert {"folded keys", "resolution", "canonical JSON", "numerics bottleneck"} <= failed


def _ask(program: Path, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the second implementation answers."""
    text = "".join(f"{json.dumps(question)}\n" for question in questions)
    command = ["node", "answer.mjs", "--spec", str(SPEC)]
    answered = subprocess.run(command, cwd=program, input=text, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in answered.stdout.split("\n") if line]


def test_both_write_the_same_canonical_json(program: Path) -> None:
    chance = random.Random(1)
    texts = []
    for _ in range(3000):
        bits = chance.getrandbits(64)
        number = struct.unpack("<d", struct.pack("<Q", bits))[0]
        digits = "".join(chance.choices("0123456789", k=chance.randint(1, 25)))
        texts.append(repr(number) if math.isfinite(number) else f"{chance.randint(0, 9)}e{chance.randint(-330, 310)}")
        texts.append(chance.choice([f"{digits}", f"0.{digits}", f"{digits[0]}.{digits}e{chance.randint(-30, 30)}"]))
        letters = "".join(chance.choices(string.printable + "é€\u2028\ud834\udd1e😀ﬃ\u0080\ufffe", k=6))
        texts.append(json.dumps({letters: [letters[:3]], letters[3:]: None, "a": {"b": 1, "B": 2}}))
    for text, answer in zip(texts, _ask(program, [{"canonical": text} for text in texts]), strict=True):
        try:
            ours: dict[str, Any] = {"canonical": canonical_json(_strict(text))}
        except ValueError:
            ours = {"error": True}
        assert answer == ours, text


def test_both_read_the_same_references(program: Path) -> None:
    chance = random.Random(2)
    pieces = [
        "sst-2",
        "A",
        "x.y",
        "c++",
        "ukp",
        "1",
        "-",
        "_",
        ".",
        "+",
        "@",
        "@",
        "/",
        ":",
        "::",
        "@sha256:",
        "sha256",
        "0" * 64,
    ]
    pieces += ["F" * 64, "\n", " ", "é", "\u212a", "\u017f", "\x00", "%", "\\"]
    texts = ["".join(chance.choices(pieces, k=chance.randint(1, 7))) for _ in range(6000)]
    valid = 0
    for text, answer in zip(texts, _ask(program, [{"reference": text} for text in texts]), strict=True):
        try:
            parsed = parse_reference(text)
            parts = {name: getattr(parsed, name) for name in parsed.__slots__ if getattr(parsed, name) is not None}
            ours: dict[str, Any] = {"parts": parts, "normal": format_reference(parsed)}
            valid += 1
        except AdapterHubError:
            ours = {"error": True}
        assert answer == ours, ascii(text)
    assert 300 < valid < 5700


def test_both_resolve_the_same(program: Path) -> None:
    chance = random.Random(3)
    words = ["a", "a-b", "a-b-c", "A_b", "b", "b.c", "c++", "d"]
    configs = {name: load_preset(name) for name in ("pfeiffer", "houlsby", "lora")}
    questions = []
    for _ in range(1500):
        entries = []
        for _ in range(chance.randint(1, 9)):
            using = chance.choice(list(configs))
            fields = {**configs[using].expand(), **chance.choice([{}, {}, {"leave_out": [1, 0]}])}
            config = parse_config(fields)
            entries.append(
                {
                    "namespace": chance.choice(["n", "N2", "m"]),
                    "name": chance.choice(words),
                    "version": chance.choice(["1", "2", "RC"]),
                    "model_name": chance.choice(["base", "base", "other"]),
                    "task": chance.choice(words),
                    "subtask": chance.choice(words),
                    "type": chance.choice(["text_task", "text_task", "text_lang"]),
                    "method": config.method,
                    "using": using,
                    "config": config.expand(),
                    "config_id": config.config_id,
                    "yanked": chance.random() < 0.25,
                    "created_at": chance.choice([None, "2026-01-01T00:00:00Z", "2026-01-01T02:30:00+02:00"]),
                    "default_version": chance.choice([None, None, "1", "9"]),
                    "digest": chance.choice([None, "sha256:" + "1" * 64, "sha256:" + "2" * 64]),
                }
            )
        one = chance.choice(entries)
        ref = chance.choice(
            [*words, f"{chance.choice(words)}/{chance.choice(words)}", f"@{one['namespace']}/{one['name']}"]
        )
        ref += "" if ref.startswith("@") else chance.choice(["", "", "@n", "@n2"])
        ref += chance.choice(["", "", "", ":1", ":2", ":9"]) + chance.choice(["", "", "", "@sha256:" + "1" * 64])
        context = {
            "model_name": chance.choice(["base", "base", "base", "other", None]),
            "config": chance.choice(
                [None, None, None, "houlsby", {"using": "lora"}, configs["pfeiffer"].config_id, {"using": "x"}]
            ),
            "type": chance.choice([None, None, None, "text_lang"]),
            "aliases": chance.choice([None, {"d": "a", "A-B": "b.c"}, {"b": "a/b", "a/d": "c++"}]),
        }
        defaults = [
            {
                "model_name": "base",
                "task": pair["task"],
                "subtask": pair["subtask"],
                "default": f"@{pair['namespace']}/{pair['name']}",
            }
            for pair in {(e["task"].lower().replace("_", "-"), e["subtask"].lower()): e for e in entries[:2]}.values()
        ]
        questions.append({"resolve": ref, "entries": entries, "defaults": defaults, **context})
    kinds: set[str] = set()
    for question, answer in zip(questions, _ask(program, questions), strict=True):
        ours = _resolved(question)
        assert answer == ours, json.dumps(
            {**question, "entries": [{**e, "config": "…"} for e in question["entries"]]}, indent=1
        )
        kinds.add(str(ours.get("error") or ours["ok"][3]))
    assert kinds == {"unique", "namespace", "config", "default", "NotFound", "Ambiguous", "VersionNotFound", "ModelMismatch",
                     "Integrity", "InvalidReference"}  # fmt: skip


def _resolved(question: dict[str, Any]) -> dict[str, Any]:
    entries = [IndexEntry.from_json(entry) for entry in question["entries"]]
    defaults: dict[tuple[str, str, str], str] = {}
    for one in question["defaults"]:
        defaults.setdefault((one["model_name"], fold(one["task"]), fold(one["subtask"])), one["default"])
    context = {name: question[name] for name in ("model_name", "config", "type", "aliases")}
    try:
        found = resolve(question["resolve"], entries, defaults=defaults, **context)
    except AdapterHubError as error:
        candidates = sorted(canonical_json(candidate) for candidate in error.candidates)
        return {"error": error.code, "candidates": candidates, "models": sorted(error.details.get("models", []))}
    return {"ok": [found.adapter, found.version, found.tier, found.decided_by]}


def _strict(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name comes twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)
