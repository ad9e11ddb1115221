"""A model publishes one of its adapters itself, and another model finds it by reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import adapterhub.core as ah
from demo.hub import Hub
from integration_tests.tiny_model import texts


def test_push_adapter_and_load_it_by_reference(
    hub: Hub, client: dict[str, str], tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in client.items():
        if name.startswith("ADAPTERHUB_"):
            monkeypatch.setenv(name, value)
    hub.administer("org", "create", "pusher")
    token = hub.administer("token", "create", "--org", "pusher")
    folder = tiny_models / "bert-base-uncased"
    inputs = AutoTokenizer.from_pretrained(folder)(texts(4)[0], padding=True, return_tensors="pt")

    torch.manual_seed(0)
    model = ah.AutoModelForSequenceClassification.from_pretrained(folder, base_model_name="bert-base-uncased")
    model.add_adapter("mood", config="pfeiffer")
    model.train_adapter("mood")
    for parameter in model.get_adapter("mood").values():
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval()
    monkeypatch.setenv("ADAPTERHUB_TOKEN", token)
    result = model.push_adapter("mood", "sentiment/mood@pusher", version="1.0", license="MIT")
    assert result.full_id == "sentiment/mood@pusher"

    monkeypatch.delenv("ADAPTERHUB_TOKEN")
    torch.manual_seed(1)
    other = ah.AutoModelForSequenceClassification.from_pretrained(folder, base_model_name="bert-base-uncased")
    name = other.load_adapter("sentiment/mood@pusher:1.0", set_active=True)
    with torch.no_grad():
        assert torch.equal(other.eval()(**inputs).logits, model(**inputs).logits)
    report = ah.load_report(other, name)
    assert report is not None and report.complete and report.head == "mood"
