"""Checkpoints of adapters 1.3.0 and peft 0.21.2 are read, and compute what these libraries computed (`golden` of the test data)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import adapterhub.core as ah
from adapterhub.spec.errors import AdapterHubError

DATA = Path(os.environ.get("ADAPTERHUB_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "golden"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the golden test data is not here (ADAPTERHUB_TEST_DATA)")


def cases() -> Iterator[Any]:
    for path in sorted(DATA.glob("*/*/cases/*/case.json")):
        family = path.parents[2]
        yield pytest.param(path, id=f"{family.parent.name}/{family.name}/{path.parent.name}")


def compose(node: Any) -> Any:
    if isinstance(node, str):
        return node
    options = {key: value for key, value in node.items() if key not in ("type", "children")}
    return getattr(ah, node["type"])(*map(compose, node["children"]), **options)


def loaded(path: Path, case: dict[str, Any]) -> Any:
    """The model of a case with its adapters and fusions, set up."""
    folder, source = path.parent, str(path.parents[2] / "model")
    if case["model_class"].endswith("AdapterModel"):
        model = ah.AutoAdapterModel.from_pretrained(source, **case.get("model_kwargs", {}))
    else:
        model = ah.init(
            getattr(transformers, case["model_class"]).from_pretrained(source, **case.get("model_kwargs", {}))
        )
    for name, sub in case["adapters"].items():
        model.load_adapter(folder / sub, load_as=name)
        report = ah.load_report()
        assert report is not None and report.complete and report.used
    for sub in case.get("fusions", {}).values():
        model.load_adapter_fusion(folder / sub)
    if case["setup"]:
        model.set_active_adapters(compose(case["setup"]))
    if case["head"]:
        assert model.active_head == case["head"]  # it follows its adapter
    return model.eval()


def output(model: Any, path: Path, case: dict[str, Any]) -> torch.Tensor:
    rows = {"adapter_names": case["adapter_names"]} if case.get("adapter_names") else {}
    with torch.no_grad():
        out = model(**load_file(path.parents[2] / "inputs.safetensors"), **rows)
    return out[case["output"]].float()


@pytest.mark.parametrize("path", list(cases()))
def test_outputs_are_the_peers(path: Path, tmp_path: Path) -> None:
    case = json.loads(path.read_text())
    model = loaded(path, case)
    wanted = load_file(path.parent / "expected.safetensors")[case["output"]]
    got = output(model, path, case)
    torch.testing.assert_close(got, wanted.float(), rtol=0, atol=case["tolerance"])


def one_adapter_cases() -> list[Any]:
    """Cases of one adapter on a plain model: all on BERT, and those at fused linear maps on GPT-2."""
    found = []
    for param in cases():
        path: Path = param.values[0]  # type: ignore[assignment]
        case = json.loads(path.read_text())
        wanted = ("bert/" in str(param.id) and "roberta" not in str(param.id)) or "gpt2/lora" in str(param.id)
        plain = not case["model_class"].endswith("AdapterModel") and len(case["adapters"]) == 1
        if wanted and plain and not path.parent.name.startswith("legacy"):
            found.append(param)
    return found


def written() -> Iterator[Any]:
    for param in one_adapter_cases():
        low_rank = any(word in str(param.id) for word in ("lora", "ia3", "dora", "rank"))
        for form in ("native", "adapters", *(["peft"] if low_rank or "par_bn" in str(param.id) else [])):
            yield pytest.param(param.values[0], form, id=f"{param.id}-{form}")


@pytest.mark.parametrize(("path", "form"), list(written()))
def test_what_was_read_is_written_and_read_again(path: Path, form: str, tmp_path: Path) -> None:
    """In the native format to the bit; in the others as near as their way of keeping it allows, or refused with a reason."""
    case = json.loads(path.read_text())
    model = loaded(path, case)
    before = output(model, path, case)
    (name,) = case["adapters"]
    try:
        model.save_adapter(tmp_path / "x", name, format=form)
    except AdapterHubError as error:
        assert form != "native" and ("PEFT" in str(error) or "peers" in str(error) or "adapters" in str(error)), error
        assert not (tmp_path / "x").exists()
        return
    again = ah.init(
        type(model)._adapterhub_stock.from_pretrained(str(path.parents[2] / "model"), **case.get("model_kwargs", {}))
    )
    again.load_adapter(tmp_path / "x", load_as="again", set_active=True)
    after = output(again.eval(), path, {**case, "adapter_names": None})
    if form == "native":
        assert torch.equal(after, before)
        assert again.adapter_config("again") == model.adapter_config(name)
    else:
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
