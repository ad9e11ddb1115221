"""Flexible heads: every type on every kind of model, saved and loaded with adapters, and heads of task classes turned into them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, train, write_model

import adapterhub.core as ah
from adapterhub.spec.errors import AdapterNotFoundError, CheckpointError, InvalidConfigError

T = torch.tensor
ROWS = {
    "classification": ("add_classification_head", {"num_labels": 3}, {"labels": T([0, 1, 2, 0])}, (4, 3)),
    "regression": ("add_classification_head", {"num_labels": 1}, {"labels": T([0.1, 0.5, 1.0, 0.0])}, (4, 1)),
    "pooled": (
        "add_classification_head",
        {"num_labels": 2, "layers": 1, "use_pooler": True},
        {"labels": T([0, 1, 1, 0])},
        (4, 2),
    ),
    "multilabel": (
        "add_multilabel_classification_head",
        {"num_labels": 3},
        {"labels": T([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])},
        (4, 3),
    ),
    "tagging": ("add_tagging_head", {"num_labels": 5}, {"labels": torch.arange(36).view(4, 9) % 5}, (4, 9, 5)),
    "masked_lm": ("add_masked_lm_head", {}, {"labels": torch.full((4, 9), 5)}, (4, 9, 96)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("bert", "roberta", "gpt2", "llama", "bart", "t5"):
        write_model(folder / kind, kind)
    return folder


def adapter_model(models: Path, kind: str = "bert") -> Any:
    return ah.AutoAdapterModel.from_pretrained(models / kind)


@pytest.mark.parametrize("row", ROWS)
def test_each_head_learns_and_comes_back_with_its_adapter(models: Path, tmp_path: Path, row: str) -> None:
    add, options, labels, shape = ROWS[row]
    torch.manual_seed(0)
    model = adapter_model(models)
    model.add_adapter("a")
    getattr(model, add)("a", **options)
    model.train_adapter("a")
    first = train(model, {**inputs(), **labels}, steps=1)
    last = train(model, {**inputs(), **labels}, steps=12)
    assert last < first
    logits = model(**inputs()).logits
    assert logits.shape == shape
    model.save_adapter(tmp_path / "a", "a")
    other = adapter_model(models)
    other.active_adapters = other.load_adapter(tmp_path / "a")
    assert other.active_head == "a"
    assert torch.equal(other(**inputs()).logits, logits)


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "llama", "bart", "t5"])
def test_classification_on_other_families(models: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = adapter_model(models, kind)
    model.add_adapter("a")
    model.add_classification_head("a", num_labels=2)
    model.train_adapter("a")
    batch = inputs()
    if kind == "t5":
        batch["input_ids"][:, -1] = 1  # its end-of-text token
    train(model, {**batch, "labels": T([0, 1, 0, 1])})
    with torch.no_grad():  # a T5 that may train takes another attention kernel than a frozen one
        logits = model(**batch).logits
    model.save_adapter(tmp_path / "a", "a")
    other = adapter_model(models, kind)
    other.load_adapter(tmp_path / "a", set_active=True)
    with torch.no_grad():
        assert torch.equal(other(**batch).logits, logits)


def test_the_text_is_summed_up_at_its_last_token_in_a_causal_model(models: Path) -> None:
    model = adapter_model(models, "llama")
    model.add_classification_head("a")
    batch = inputs()
    padded = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in batch.items()}
    assert torch.allclose(model(**padded).logits, model(**batch).logits, atol=1e-5)


def test_question_answering_multiple_choice_and_parsing(models: Path) -> None:
    model = adapter_model(models)
    model.add_qa_head("qa")
    out = model(**inputs(), start_positions=T([1, 2, 3, 4]), end_positions=T([2, 3, 4, 50]))
    assert out.start_logits.shape == out.end_logits.shape == (4, 9) and torch.isfinite(out.loss)
    model.add_multiple_choice_head("choice", num_choices=2)
    folded = {key: value.view(2, 2, 9) for key, value in inputs().items()}
    out = model(**folded, labels=T([0, 1]))
    assert out.logits.shape == (2, 2) and torch.isfinite(out.loss)
    model.add_dependency_parsing_head("tree", num_labels=4)
    starts = T([[1, 3, 4, 8], [1, 2, 8, -1], [1, 2, 3, 4], [1, 5, 8, -1]])
    arcs, rels = (
        T([[0, 1, 1], [0, 1, -100], [2, 0, 2], [2, 0, -100]]),
        T([[0, 1, 2], [3, 1, -100], [1, 0, 1], [1, 0, -100]]),
    )
    model.add_adapter("tree")
    model.train_adapter("tree")
    batch = {**inputs(), "word_starts": starts, "labels_arcs": arcs, "labels_rels": rels}
    first = train(model, batch, steps=1)
    assert train(model, batch, steps=20, rate=3e-2) < first / 2
    out = model(**batch)
    assert out.arc_logits.shape == (4, 3, 4) and out.rel_logits.shape == (4, 3, 4, 4)
    there = arcs >= 0
    assert (out.arc_logits.argmax(-1)[there] == arcs[there]).float().mean() > 0.8


@pytest.mark.parametrize(("kind", "add"), [("gpt2", "add_causal_lm_head"), ("llama", "add_causal_lm_head")])
def test_a_causal_head_computes_what_the_task_class_does_and_generates(models: Path, kind: str, add: str) -> None:
    model = adapter_model(models, kind)
    getattr(model, add)("lm")
    stock = transformers.AutoModelForCausalLM.from_pretrained(models / kind, tie_word_embeddings=True).eval()
    stock.lm_head.weight = stock.get_input_embeddings().weight
    batch = inputs()
    assert torch.allclose(model(**batch).logits, stock(**batch).logits, atol=1e-5)
    assert torch.allclose(
        model(**batch, labels=batch["input_ids"]).loss, stock(**batch, labels=batch["input_ids"]).loss, atol=1e-5
    )
    kwargs = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(**batch, **kwargs), stock.generate(**batch, **kwargs))


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_sequence_to_sequence_head_trains_and_generates(models: Path, kind: str) -> None:
    model = adapter_model(models, kind)
    model.add_adapter("a")
    model.add_seq2seq_lm_head("a")
    model.train_adapter("a")
    batch = {**inputs(), "labels": inputs(length=5, seed=3)["input_ids"]}
    assert train(model, batch, steps=10) < train(adapter_copy(model, models, kind), batch, steps=1)
    assert model.generate(**inputs(), max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (4, 4)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_sequence_to_sequence_head_computes_what_the_task_class_does(models: Path, kind: str, tmp_path: Path) -> None:
    """T5 makes the decoder's states smaller before its tied embeddings; BART adds an offset of zeros."""
    stock = ah.init(transformers.AutoModelForSeq2SeqLM.from_pretrained(models / kind)).eval()
    stock.add_adapter("a", config="houlsby[reduction_factor=4]")
    stock.active_adapters = "a"
    stock.save_adapter(tmp_path / "a", "a")
    model = adapter_model(models, kind)
    model.load_adapter(tmp_path / "a", set_active=True)
    if not model.active_head:  # a tied head is no part of the checkpoint
        model.add_seq2seq_lm_head("a")
    batch = {**inputs(), "decoder_input_ids": inputs(length=5, seed=3)["input_ids"]}
    torch.testing.assert_close(model(**batch).logits, stock(**batch).logits, rtol=0, atol=1e-5)


def test_an_image_is_summed_up_as_its_family_does(tmp_path: Path) -> None:
    """BEiT classifies the mean of its patches, ViT its class token."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for kind in ("beit", "vit"):
        config = transformers.AutoConfig.for_model(
            kind, image_size=16, patch_size=8, vocab_size=96, num_labels=3, **sizes
        )
        torch.manual_seed(0)
        stock = transformers.AutoModelForImageClassification.from_config(config).eval()
        stock.base_model.save_pretrained(tmp_path / kind)
        model = ah.AutoAdapterModel.from_pretrained(tmp_path / kind).eval()
        model.add_image_classification_head("head", num_labels=3, layers=1)
        model.heads["head"].layers.out.load_state_dict(stock.classifier.state_dict())
        torch.testing.assert_close(
            model(pixel_values=pixels).logits, stock(pixel_values=pixels).logits, rtol=0, atol=1e-5
        )


def adapter_copy(model: Any, models: Path, kind: str) -> Any:
    fresh = adapter_model(models, kind)
    fresh.add_adapter("a")
    fresh.add_seq2seq_lm_head("a")
    fresh.train_adapter("a")
    return fresh


def test_only_the_head_of_the_trained_adapter_learns(models: Path) -> None:
    model = adapter_model(models)
    for name in ("a", "b"):
        model.add_adapter(name)
        model.add_classification_head(name)
    model.train_adapter("a")
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("heads.a.") for name in learning)
    assert not any(name.startswith("heads.b.") or ".b." in name for name in learning)


def test_parallel_adapters_answer_through_their_own_heads(models: Path) -> None:
    model = adapter_model(models)
    for name, labels in (("a", 2), ("b", 3)):
        model.add_adapter(name)
        model.add_classification_head(name, num_labels=labels)
    alone = {}
    for name in ("a", "b"):
        model.active_adapters = name
        alone[name] = model(**inputs()).logits
    model.active_adapters = ah.Parallel("a", "b")
    out = model(**inputs())
    for name, part in zip(("a", "b"), out.head_outputs, strict=True):
        assert torch.allclose(part.logits, alone[name], atol=1e-6)


def test_a_batch_of_rows_with_different_heads(models: Path) -> None:
    model = adapter_model(models)
    for name in ("a", "b"):
        model.add_adapter(name)
        model.add_classification_head(name)
    alone = {}
    for name in ("a", "b"):
        model.active_adapters = name
        alone[name] = model(**inputs()).logits
    out = model(**inputs(), adapter_names=["b", "a", "a", "b"])
    wanted = torch.stack([alone[name][row] for row, name in enumerate("baab")])
    assert torch.allclose(out.logits, wanted, atol=1e-6)


def test_the_head_of_a_task_class_loads_as_a_flexible_one_and_back(models: Path, tmp_path: Path) -> None:
    for kind in ("bert", "roberta"):
        torch.manual_seed(0)
        stock = ah.AutoModelForSequenceClassification.from_pretrained(models / kind, num_labels=3).eval()
        stock.add_adapter("a")
        stock.train_adapter("a")
        train(stock, {**inputs(), "labels": T([0, 1, 2, 1])})
        logits = stock(**inputs()).logits
        stock.save_adapter(tmp_path / kind, "a")
        flexible = adapter_model(models, kind)
        flexible.load_adapter(tmp_path / kind, set_active=True)
        assert torch.allclose(flexible(**inputs()).logits, logits, atol=1e-6)
        flexible.save_adapter(tmp_path / f"{kind}-back", "a")
        again = ah.AutoModelForSequenceClassification.from_pretrained(models / kind, num_labels=3).eval()
        again.load_adapter(tmp_path / f"{kind}-back", set_active=True)
        assert torch.equal(again(**inputs()).logits, logits)


def test_what_a_head_cannot_be_turned_into_is_said(models: Path, tmp_path: Path) -> None:
    model = adapter_model(models)
    model.add_adapter("a")
    model.add_classification_head("a", layers=2)
    model.save_adapter(tmp_path / "a", "a")
    stock = ah.AutoModelForSequenceClassification.from_pretrained(models / "bert")
    with pytest.raises(CheckpointError, match="AutoAdapterModel"):
        stock.load_adapter(tmp_path / "a")
    assert not stock.has_adapters()


def test_heads_by_themselves(models: Path, tmp_path: Path) -> None:
    model = adapter_model(models)
    model.add_tagging_head("pos", num_labels=3, id2label={0: "N", 1: "V", 2: "X"})
    logits = model(**inputs()).logits
    model.save_head(tmp_path / "pos", "pos")
    other = adapter_model(models)
    assert other.load_head(tmp_path / "pos") == "pos"
    assert other.get_labels("pos") == ["N", "V", "X"]
    assert torch.equal(other(**inputs()).logits, logits)
    assert other(**inputs(), head=None).logits is not None
    other.delete_head("pos")
    assert other.head_names == [] and hasattr(other(**inputs()), "last_hidden_state")


def test_names_of_heads_are_checked(models: Path) -> None:
    model = adapter_model(models)
    model.add_classification_head("a.b")
    with pytest.raises(InvalidConfigError, match="already has a head"):
        model.add_classification_head("a.b")
    with pytest.raises(AdapterNotFoundError, match=r"a\.b"):
        model.active_head = "c"
    stock = ah.AutoModelForSequenceClassification.from_pretrained(models / "bert")
    with pytest.raises(InvalidConfigError, match="AutoAdapterModel"):
        stock.add_classification_head("a")


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(models: Path, how: str) -> None:
    model = adapter_model(models)
    model.add_adapter("a")
    model.add_classification_head("a")
    model.active_adapters = "a"
    other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(other(**inputs()).logits, model(**inputs()).logits)
    other.train_adapter("a")
    before = model(**inputs()).logits
    train(other, {**inputs(), "labels": T([0, 1, 0, 1])})
    assert torch.equal(model(**inputs()).logits, before)


def test_the_papers_own_lines(models: Path) -> None:
    from adapterhub.core import AdapterType, AutoModelForSequenceClassification, AutoModelWithHeads

    model = AutoModelForSequenceClassification.from_pretrained(models / "roberta")
    model.add_adapter("sst-2", AdapterType.text_task, config="pfeiffer")
    model.train_adapters(["sst-2"])
    assert sum(p.requires_grad for p in model.parameters()) == 12
    with pytest.warns(PendingDeprecationWarning):
        model = AutoModelWithHeads.from_pretrained(models / "bert")
    model.add_classification_head("sst-2", num_labels=2)
    assert model(**inputs()).logits.shape == (4, 2)


def test_save_pretrained_writes_a_tied_head_once(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adapter_model(models)
    model.add_masked_lm_head("lm")
    model.add_classification_head("a")
    model.save_pretrained(tmp_path / "whole")
    kept = load_file(tmp_path / "whole" / "model.safetensors")
    assert "bert.embeddings.word_embeddings.weight" in kept and "heads.lm.out.weight" not in kept
    assert "heads.a.layers.out.weight" in kept
    other = transformers.AutoModel.from_pretrained(tmp_path / "whole").eval()
    model.active_head = None
    assert torch.equal(other(**inputs()).last_hidden_state, model(**inputs()).last_hidden_state)
