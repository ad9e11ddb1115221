"""From a frozen transformer to a stranger's prediction: train, save, publish, see, find, fetch, stitch, predict."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from demo.hub import Hub
from integration_tests.conftest import Cli
from integration_tests.tiny_model import texts

REFERENCE = "sentiment/snippets@acme"

LOAD = f"""
from transformers import AutoModelForSequenceClassification
import adapterhub.core as ah
model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=2)
ah.init(model)
model.active_adapters = model.load_adapter("{REFERENCE}")
"""

PREDICT = """
import sys, torch, transformers
from safetensors.torch import save_file
torch.manual_seed(99)
exec(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained("bert-base-uncased")
model.eval()
with torch.inference_mode():
    save_file({"logits": model(**tokenizer(sys.argv[3:], padding=True, return_tensors="pt")).logits}, sys.argv[2])
"""


def _train(folder: Path, models: Path, name: str, config: str, steps: int = 60) -> torch.Tensor:
    """Train an adapter on word lists, save it, and return its logits on the first eight texts."""
    import adapterhub.core as ah

    torch.manual_seed(0)
    snippets, answers = texts(128)
    labels = torch.tensor(answers)
    model = AutoModelForSequenceClassification.from_pretrained(models / "bert-base-uncased", num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(models / "bert-base-uncased")
    inputs = tokenizer(snippets, padding=True, return_tensors="pt")
    ah.init(model, model_name="bert-base-uncased")
    model.add_adapter(name, config=config)
    model.train_adapter(name)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.save_adapter(folder, name)
    with torch.inference_mode():
        if steps > 50:
            assert float((model(**inputs).logits.argmax(-1) == labels).float().mean()) > 0.9
        return model(**tokenizer(snippets[:8], padding=True, return_tensors="pt")).logits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> tuple[Path, torch.Tensor]:
    """A trained adapter's folder and its logits."""
    folder = tmp_path_factory.mktemp("trained") / "snippets"
    return folder, _train(folder, tiny_models, "snippets", "pfeiffer")


def _elsewhere(load: str, target: Path, models: Path, environment: dict[str, str]) -> torch.Tensor:
    """The logits of a fresh process that runs the lines `load`."""
    line = [sys.executable, "-c", PREDICT, load, str(target), *texts(8)[0]]
    done = subprocess.run(line, cwd=models, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(target)["logits"]


def test_the_whole_life_cycle(
    trained: tuple[Path, torch.Tensor], hub: Hub, client: dict[str, str], tiny_models: Path, tmp_path: Path, cli: Cli
) -> None:
    folder, logits = trained
    assert {p.name for p in folder.iterdir()} >= {
        "adapter_config.json",
        "adapter.safetensors",
        "head_config.json",
        "head.safetensors",
        "README.md",
    }
    hub.administer("org", "create", "acme")
    token = hub.administer("token", "create", "--org", "acme")

    pushed = cli("push", str(folder), REFERENCE, "--version", "1.0", ADAPTERHUB_TOKEN=token)
    assert pushed.returncode == 0, pushed.stderr

    # it stands on the pages, with sample code
    html = hub.page("/explore/task/sentiment/snippets")
    [page] = {part.split('"')[0] for part in html.split('href="')[1:] if part.startswith("/@acme/")}
    [sample] = re.findall(r"<code>([^<]*from_pretrained[^<]*)</code>", hub.page(page))

    # a stranger finds it by its short name; a fresh process that runs the sample code computes the same bits
    found = cli("resolve", "snippets", "--model", "bert-base-uncased", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["full_id"] == REFERENCE
    assert torch.equal(_elsewhere(unescape(sample), tmp_path / "online.safetensors", tiny_models, client), logits)

    # and does so again while the hub is down, from the cache
    hub.stop()
    try:
        offline = {**client, "ADAPTERHUB_OFFLINE": "1"}
        assert torch.equal(_elsewhere(LOAD, tmp_path / "offline.safetensors", tiny_models, offline), logits)
    finally:
        hub.start()


def test_a_second_publisher_makes_the_short_name_ambiguous(
    trained: tuple[Path, torch.Tensor], hub: Hub, cli: Cli, tiny_models: Path, tmp_path: Path
) -> None:
    hub.administer("org", "create", "reader")
    reader = {"ADAPTERHUB_TOKEN": hub.administer("token", "create", "--org", "reader")}

    def publish(name: str) -> None:
        hub.administer("org", "create", name)
        token = hub.administer("token", "create", "--org", name)
        elsewhere = {"ADAPTERHUB_TOKEN": token, "ADAPTERHUB_CACHE": str(tmp_path / name)}
        pushed = cli("push", str(trained[0]), f"topic/letters@{name}", "--version", "1.0", **elsewhere)
        assert pushed.returncode == 0, pushed.stderr

    publish("first")
    for who in ({}, reader):
        assert cli("resolve", "letters", "--model", "bert-base-uncased", **who).returncode == 0
    publish("second")
    for who in ({}, reader):  # also for those who asked a moment ago, with a token or without
        found = cli("resolve", "letters", "--model", "bert-base-uncased", **who)
        assert found.returncode == 4, found.stderr
    assert found.returncode == 4
    assert "topic/letters@first" in found.stderr and "topic/letters@second" in found.stderr
    assert "Traceback" not in found.stderr
    one = cli("resolve", "letters@second", "--model", "bert-base-uncased", "--json")
    assert json.loads(one.stdout)["decided_by"] == "namespace"


def test_detaching_gives_the_stock_transformer_back(trained: tuple[Path, torch.Tensor], tiny_models: Path) -> None:
    """Same class, same keys, same bits: of weights and of what the transformer computes."""
    import adapterhub.core as ah

    model = AutoModelForSequenceClassification.from_pretrained(tiny_models / "bert-base-uncased", num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "bert-base-uncased")
    inputs = tokenizer(texts(8)[0], padding=True, return_tensors="pt")
    hidden = model.bert(**inputs).last_hidden_state
    weights = {name: value.clone() for name, value in model.bert.state_dict().items()}
    keys, kind = list(model.state_dict()), type(model)

    ah.init(model, model_name="bert-base-uncased")
    model.active_adapters = model.load_adapter(str(trained[0]))
    assert torch.equal(model(**inputs).logits, trained[1])
    assert not torch.equal(model.bert(**inputs).last_hidden_state, hidden)

    ah.detach(model)
    assert type(model) is kind and list(model.state_dict()) == keys
    assert all(torch.equal(value, weights[name]) for name, value in model.bert.state_dict().items())
    assert torch.equal(model.bert(**inputs).last_hidden_state, hidden)
