"""Every case of the shared resolution data through the public API over a static export, and a part through the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from exports import Export
from loopback import LoopbackHub

from adapterhub.client import AdapterHubError, HubClient
from adapterhub.client.cli import main
from adapterhub.spec.errors import exit_code
from adapterhub.spec.legacy import read_legacy_catalogue

DATA = Path(os.environ.get("ADAPTERHUB_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
CASES: list[dict[str, Any]] = []
if (DATA / "resolution").is_dir():
    CASES = json.loads((DATA / "resolution" / "cases.json").read_bytes())
    CASES += json.loads((DATA / "resolution" / "cases_extra.json").read_bytes())

pytestmark = pytest.mark.skipif(not CASES, reason="the resolution cases are not at hand (ADAPTERHUB_TEST_DATA)")
SETS = sorted({case.get("extra_adapters") or "" for case in CASES})


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name of a set of made-up entries ("" for none) → folder of a static export with them and the real catalogue."""
    found = {}
    for name in SETS:
        catalogue = tmp_path_factory.mktemp("catalogue") / "tree"
        shutil.copytree(DATA / "hub-catalogue", catalogue, copy_function=shutil.copyfile)
        for path in [catalogue, *catalogue.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        if name:
            _write_extra(catalogue, json.loads((DATA / "resolution" / "extra_adapters.json").read_bytes())[name])
        read = read_legacy_catalogue(catalogue)
        export = Export(tmp_path_factory.mktemp("export") / "files")
        export.defaults = dict(read.defaults)
        export.add(read.entries)
        found[name] = export.folder
    return found


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


def _answer(client: HubClient, case: dict[str, Any]) -> dict[str, Any]:
    try:
        found = client.resolve(
            case["ref"],
            model_name=case["model_name"],
            config=case["config"],
            type=case["type"],
            aliases=case["aliases"] or {},
        )
    except AdapterHubError as error:
        return {"error": error.code, "candidates": error.candidates, "suggestions": error.suggestions, **error.details}
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


def _as_expected(answer: dict[str, Any], expected: dict[str, Any], *, whole: bool) -> bool:
    if "ok" in expected:
        return answer == expected
    if answer.get("error") != expected["error"] or _sorted(answer["candidates"]) != _sorted(expected["candidates"]):
        return False
    if expected["error"] == "NotFound" and whole:
        return sorted(answer["models"]) == sorted(expected["models"]) and set(expected["must_suggest"]) <= set(
            answer["suggestions"]
        )
    if expected["error"] == "ModelMismatch":
        return bool(answer["adapter_model"] == expected["adapter_model"])
    return True


def _sorted(candidates: list[Any]) -> list[str]:
    return sorted(json.dumps(candidate, sort_keys=True) for candidate in candidates)


@pytest.mark.parametrize("name", SETS)
def test_every_case_over_a_folder(exports: dict[str, Path], name: str) -> None:
    cases = [case for case in CASES if (case.get("extra_adapters") or "") == name]
    client = HubClient(endpoint=str(exports[name]))
    wrong = [case["id"] for case in cases if not _as_expected(_answer(client, case), case["expect"], whole=True)]
    assert cases and wrong == []


@pytest.mark.parametrize("name", SETS)
def test_every_case_over_a_plain_web_server(exports: dict[str, Path], name: str) -> None:
    """Suggestions and other models of a refusal need the whole catalogue, which a plain web server cannot search."""
    cases = [case for case in CASES if (case.get("extra_adapters") or "") == name]
    hub = LoopbackHub(exports[name])
    try:
        client = HubClient(endpoint=hub.url)
        part = cases if name else cases[::3]
        wrong = [case["id"] for case in part if not _as_expected(_answer(client, case), case["expect"], whole=False)]
    finally:
        hub.close()
    assert wrong == []


def test_the_command_line_says_the_same_and_exits_with_the_right_code(
    exports: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", str(exports[""]))
    codes = {"NotFound": 3, "VersionNotFound": 3, "Ambiguous": 4, "ModelMismatch": 8, "InvalidReference": 2}
    cases = [case for case in CASES if not case.get("extra_adapters") and not case["aliases"]]
    tried = 0
    for case in cases[::4]:
        if case["ref"].startswith("-") or "\0" in case["ref"] or case["expect"].get("ok", {}).get("tier") == "prefix":
            continue
        line = ["resolve", "--json"]
        line += ["--model", case["model_name"]] if case["model_name"] else []
        if case["config"] is not None:
            line += ["--config", case["config"] if isinstance(case["config"], str) else json.dumps(case["config"])]
        line += ["--type", case["type"]] if case["type"] else []
        code = main([*line, case["ref"]])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        expected = case["expect"]
        if "ok" in expected:
            assert code == 0, (case, err)
            answer = json.loads(out)
            assert (answer["full_id"], answer["name"], answer["version"]) == (
                expected["ok"]["id"],
                expected["ok"]["adapter"],
                expected["ok"]["version"],
            )
        elif expected["error"] == "NotFound" and code in (0, 4):
            pass  # the hub's own alias table, which the case leaves out, found something
        else:
            assert code == codes[expected["error"]], (case, err)
            assert out == "" and json.loads(err)["code"] == expected["error"]
        tried += 1
    assert tried > 100


def test_entries_without_bytes_are_said_to_be_so(exports: dict[str, Path]) -> None:
    client = HubClient(endpoint=str(exports[""]))
    with pytest.raises(AdapterHubError, match="bytes are not there") as error:
        client.download("sst-2@ukp", model_name="bert-base-uncased")
    assert exit_code(error.value) == 3


def test_help_of_every_command_has_no_traceback_and_exits_0() -> None:
    for line in (["--help"], ["cache", "--help"], ["hubs", "--help"], ["push", "--help"], ["search", "-h"]):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(line) == 0
        assert "Usage" in out.getvalue()
