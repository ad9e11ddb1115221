"""The numerics vectors are what their generator makes, and the generator's equations hold together."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from adapterhub.spec import parse_config, preset_names
from adapterhub.spec.fusion import parse_fusion
from adapterhub.spec.presets import preset_documents
from adapterhub.spec.safetensors_header import read_header

np = pytest.importorskip("numpy")

FOLDER = Path(__file__).parents[3] / "spec" / "conformance" / "numerics"
GROUPS = ("bottleneck", "invertible", "composition", "fusion", "linear", "states")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("numerics_reference", FOLDER / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(folder: Path, group: str) -> tuple[dict[str, Any], dict[str, Any]]:
    document = json.loads((folder / f"{group}.json").read_text())
    path = folder / document["tensors"]
    header = read_header(path)
    data = path.read_bytes()[header.data_start :]
    kinds = {"F32": np.float32, "U8": np.uint8}
    return document, {
        t.name: np.frombuffer(data[t.offsets[0] : t.offsets[1]], kinds[t.dtype]).reshape(t.shape)
        for t in header.tensors
    }


def test_the_vectors_are_those_of_the_generator(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "generate.py", tmp_path], check=True, capture_output=True)
    for group in GROUPS:
        made, numbers = read(tmp_path, group)
        kept, stored = read(FOLDER, group)
        assert made == kept
        assert numbers.keys() == stored.keys()
        for name in numbers:
            np.testing.assert_allclose(numbers[name], stored[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_every_case_is_complete_and_its_config_valid(group: str) -> None:
    document, stored = read(FOLDER, group)
    used = set()
    names = [case["name"] for case in document["cases"]]
    assert len(set(names)) == len(names)
    for case in document["cases"]:
        for part in ("weights", "inputs", "outputs"):
            assert set(case[part].values()) <= stored.keys()
            used |= set(case[part].values())
        configs = [case["config"]] if "method" in case["config"] else [case["adapter"]] if "adapter" in case else []
        configs = configs or list(case["config"].values())
        for config in configs:
            parse_config(config)
        if group == "fusion":
            parse_fusion(case["config"])
    assert used == stored.keys()
    assert all(np.isfinite(array).all() for array in stored.values())


def test_every_preset_has_a_case() -> None:
    """Unions have one for each member."""
    names = {case["name"] for group in GROUPS for case in read(FOLDER, group)[0]["cases"]}
    for preset in preset_names():
        config = preset_documents()[preset]["config"]
        members = config.get("configs", [config])
        for number, member in enumerate(members):
            label = preset if len(members) == 1 else f"{preset}-{number}"
            ending = {"bottleneck": "-post", "ia3": "-output"}.get(member["method"], "")
            assert f"preset-{label}{ending}" in names


def test_different_switches_give_different_numbers() -> None:
    """Cases that agree do so for a reason: a parallel adapter ignores where a sequential one reads and skips, …"""
    document, stored = read(FOLDER, "bottleneck")
    groups: dict[bytes, list[dict[str, Any]]] = {}
    for case in document["cases"]:
        if case["name"].startswith("switches-") and case["norm"]:
            key = stored[case["outputs"]["adapted"]].tobytes()
            groups.setdefault(key, []).append(case["config"])

    def meaning(config: dict[str, Any]) -> tuple[Any, ...]:
        own = (config["ln_before"], config["ln_after"])
        if config["is_parallel"]:
            return ("parallel", *own)
        inside = config["adapter_residual_before_ln"] and config["ln_after"]
        before = config["original_ln_before"]
        return ("sequential", *own, inside, before, config["residual_before_ln"] if before else None)

    assert {len({meaning(config) for config in configs}) for configs in groups.values()} == {1}
    assert len(groups) == len({meaning(config) for configs in groups.values() for config in configs})


def test_the_equations_hold_together(reference: ModuleType) -> None:
    document, stored = read(FOLDER, "invertible")
    for case in document["cases"]:
        if case["config"]["inv_adapter"] == "nice":
            weights = {key: stored[name].astype(float) for key, name in case["weights"].items()}
            x = stored[case["inputs"]["x"]].astype(float)
            act = case["config"]["non_linearity"]
            y = reference.nice(x, weights, act)
            np.testing.assert_allclose(reference.nice_inverse(y, weights, act), x, atol=1e-12)
    document, stored = read(FOLDER, "fusion")
    for case in document["cases"]:
        attention = stored[case["outputs"]["attention"]]
        np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-6)
    document, stored = read(FOLDER, "states")
    for case in document["cases"]:
        if case["config"]["method"] == "reft":
            before, after = stored[case["inputs"]["h"]], stored[case["outputs"]["h"]]
            changed = (before != after).any(-1)
            wanted = case["config"].get("prefix_positions", 3) + case["config"].get("suffix_positions", 0)
            assert changed.sum() == sum(min(wanted, count) for count in (6, 4))  # tokens of the two rows
            assert not changed[~stored[case["inputs"]["mask"]].astype(bool)].any()
