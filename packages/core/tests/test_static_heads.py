"""The heads of transformers' task classes: trained, saved, loaded and activated with the adapter of their name."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, train, write_model
from safetensors.torch import load_file

import adapterhub.core as ah
from adapterhub.spec.errors import CheckpointError

LABELS = {"labels": torch.tensor([0, 1, 0, 1])}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def poolerless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without its pooler, as many embedding models are published."""
    folder = tmp_path_factory.mktemp("models") / "poolerless"
    config = transformers.AutoConfig.for_model(
        "bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=96
    )
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def classifier(base: Path, labels: int = 2) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    return ah.init(model).eval()


def two_tasks(base: Path) -> transformers.PreTrainedModel:
    model = classifier(base)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model.add_adapter(name)
        model.train_adapter(name)
        train(model, {**inputs(seed=seed), **LABELS})
    return model


def trainable(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad and "adapterhub_" not in name}


def test_the_head_trains_and_a_pooler_that_came_with_the_model_does_not(base: Path) -> None:
    model = classifier(base)
    model.add_adapter("a")
    model.train_adapter("a")
    assert trainable(model) == {"classifier.weight", "classifier.bias"}


def test_a_newly_initialised_pooler_is_part_of_the_head(poolerless: Path, tmp_path: Path) -> None:
    model = classifier(poolerless)
    model.add_adapter("a")
    model.train_adapter("a")
    assert trainable(model) == {
        "classifier.weight",
        "classifier.bias",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }
    train(model, {**inputs(), **LABELS})
    logits = model(**inputs()).logits
    model.save_adapter(tmp_path / "a", "a")
    assert set(load_file(tmp_path / "a" / "head.safetensors")) == {
        "classifier.weight",
        "classifier.bias",
        "base.pooler.dense.weight",
        "base.pooler.dense.bias",
    }
    torch.manual_seed(99)
    other = classifier(poolerless)
    other.active_adapters = other.load_adapter(tmp_path / "a")
    assert torch.equal(other(**inputs()).logits, logits)


@pytest.mark.parametrize("model_type", ["roberta", "distilbert", "gpt2", "llama", "bart"])
def test_heads_of_other_families_come_back_bit_for_bit(tmp_path: Path, model_type: str) -> None:
    base = write_model(tmp_path / model_type, model_type)
    torch.manual_seed(0)
    model = classifier(base)
    model.add_adapter("a")
    model.train_adapter("a")
    train(model, {**inputs(), **LABELS})
    logits = model(**inputs()).logits
    model.save_adapter(tmp_path / "a", "a")
    torch.manual_seed(99)
    other = classifier(base)
    assert not torch.equal(other(**inputs()).logits, logits)
    other.active_adapters = other.load_adapter(tmp_path / "a")
    assert torch.equal(other(**inputs()).logits, logits)


def test_each_adapter_keeps_its_own_head(base: Path) -> None:
    model = two_tasks(base)
    logits = {}
    for name in ("one", "two", None):
        model.active_adapters = name
        assert model.active_head == name
        logits[name] = model(**inputs()).logits
    assert not torch.equal(logits["one"], logits["two"])
    model.active_adapters = "one"
    assert torch.equal(model(**inputs()).logits, logits["one"])
    model.active_adapters = ah.Stack("one", "two")
    assert model.active_head == "two"


def test_rows_of_one_batch_get_the_heads_of_their_adapters(base: Path) -> None:
    model = two_tasks(base)
    alone = {}
    for name in ("one", "two", None):
        model.active_adapters = name
        alone[name] = model(**inputs()).logits
    rows = ["two", None, "one", "two"]
    mixed = model(**inputs(), adapter_names=rows).logits
    wanted = torch.stack([alone[name][row] for row, name in enumerate(rows)])
    assert torch.allclose(mixed, wanted, atol=1e-6)
    model.active_adapters = ah.Parallel("one", "two")
    assert torch.allclose(model(**inputs()).logits, torch.cat([alone["one"], alone["two"]]), atol=1e-6)
    model.active_adapters = ah.BatchSplit("two", "one", batch_sizes=[3, 1])
    assert torch.allclose(model(**inputs()).logits, torch.cat([alone["two"][:3], alone["one"][3:]]), atol=1e-6)


def test_threads_see_their_own_heads(base: Path) -> None:
    model = two_tasks(base)
    alone = {}
    for name in ("one", "two"):
        model.active_adapters = name
        alone[name] = model(**inputs()).logits.detach()
    model.active_adapters = None
    own = model(**inputs()).logits.detach()
    wrong: list[str] = []

    def run(name: str) -> None:
        for _ in range(20):
            with ah.AdapterSetup(name), torch.no_grad():
                if not torch.allclose(model(**inputs()).logits, alone[name], atol=1e-6):
                    wrong.append(name)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two") for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(model(**inputs()).logits, own)


def test_training_one_adapter_leaves_the_other_head_and_the_models_own_alone(base: Path) -> None:
    model = two_tasks(base)
    kept = {name: [p.clone() for p in ah_heads(model).parameters(name).values()] for name in ("one", None)}
    model.train_adapter("two")
    train(model, {**inputs(), **LABELS})
    for name, before in kept.items():
        assert all(map(torch.equal, before, ah_heads(model).parameters(name).values()))


def ah_heads(model: torch.nn.Module) -> object:
    from adapterhub.core.heads.attached import heads_of

    return heads_of(model)


def test_detach_gives_back_the_models_own_head(base: Path) -> None:
    torch.manual_seed(5)
    stock = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2).eval()
    state = {key: value.clone() for key, value in stock.state_dict().items()}
    model = ah.init(stock)
    model.add_adapter("a")
    model.train_adapter("a")
    train(model, {**inputs(), **LABELS})
    model.add_adapter("b")
    model.train_adapter("b")
    ah.detach(model)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_deleting_an_adapter_deletes_its_head(base: Path) -> None:
    model = two_tasks(base)
    model.active_adapters = None
    own = model(**inputs()).logits
    model.active_adapters = "one"
    model.delete_adapter("one")
    assert model.head_names == ["two"]
    assert torch.equal(model(**inputs()).logits, own)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_have_heads_of_their_own(base: Path, how: str) -> None:
    model = two_tasks(base)
    model.active_adapters = "one"
    logits = model(**inputs()).logits
    other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(other(**inputs()).logits, logits)
    other.train_adapter("one")
    train(other, {**inputs(), **LABELS})
    other.active_adapters = "two"
    assert torch.equal(model(**inputs()).logits, logits)
    mixed = model(**inputs(), adapter_names=["one", "two", "one", "two"]).logits
    assert torch.allclose(mixed[[0, 2]], logits[[0, 2]], atol=1e-6)


def test_a_head_of_another_size_or_kind_is_refused(base: Path, tmp_path: Path) -> None:
    model = classifier(base, labels=3)
    model.add_adapter("a")
    model.train_adapter("a")
    model.save_adapter(tmp_path / "a", "a")
    two = classifier(base)
    with pytest.raises(CheckpointError, match="number of labels"):
        two.load_adapter(tmp_path / "a")
    assert not two.has_adapters() and two.head_names == []
    assert two.load_adapter(tmp_path / "a", with_head=False) == "a"
    tagger = ah.AutoModelForTokenClassification.from_pretrained(base, num_labels=3)
    with pytest.raises(CheckpointError, match="BertForTokenClassification"):
        tagger.load_adapter(tmp_path / "a")


def test_a_pretrained_language_model_head_is_neither_trained_nor_saved(base: Path, tmp_path: Path) -> None:
    transformers.AutoModelForMaskedLM.from_pretrained(base).save_pretrained(tmp_path / "lm")
    model = ah.AutoModelForMaskedLM.from_pretrained(tmp_path / "lm")
    model.add_adapter("en", config="pfeiffer+inv")
    model.train_adapter("en")
    assert trainable(model) == set()
    model.save_adapter(tmp_path / "en", "en")
    assert not (tmp_path / "en" / "head.safetensors").exists()


def test_a_newly_initialised_language_model_head_is_saved_without_the_embeddings(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ah.AutoModelForMaskedLM.from_pretrained(base).eval()
    model.add_adapter("en")
    model.train_adapter("en")
    model.eval()
    model.save_adapter(tmp_path / "en", "en")
    kept = load_file(tmp_path / "en" / "head.safetensors")
    assert "cls.predictions.transform.dense.weight" in kept and not any(
        tensor.shape[-1:] == (96, 32) for tensor in kept.values()
    )
    torch.manual_seed(1)
    other = ah.AutoModelForMaskedLM.from_pretrained(base).eval()
    other.active_adapters = other.load_adapter(tmp_path / "en")
    assert torch.equal(other(**inputs()).logits, model(**inputs()).logits)


def test_both_heads_of_a_batch_split_train(base: Path) -> None:
    model = two_tasks(base)
    before = {name: [p.clone() for p in ah_heads(model).parameters(name).values()] for name in ("one", "two")}
    model.train_adapter(ah.BatchSplit("one", "two", batch_sizes=[2, 2]))
    train(model, {**inputs(), **LABELS})
    for name, kept in before.items():
        assert not any(map(torch.equal, kept, ah_heads(model).parameters(name).values())), name


def masked(base: Path) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return ah.init(transformers.AutoModelForMaskedLM.from_pretrained(base)).eval()


def test_the_output_bias_of_a_language_model_belongs_to_its_head(base: Path, tmp_path: Path) -> None:
    """Its parameter has two names in the model, and the one that computes is not the one it is saved under."""
    model = masked(base)
    plain = model(**inputs()).logits
    model.add_adapter("a")
    model.train_adapter("a")
    bias = {name: p for name, p in model.named_parameters() if name == "cls.predictions.bias"}["cls.predictions.bias"]
    model(**inputs(), labels=inputs()["input_ids"]).loss.backward()
    assert bias.grad is not None and bias.grad.abs().sum() > 0
    with torch.no_grad():
        bias.add_(1.0)
    raised = model.eval()(**inputs()).logits
    model.active_adapters = None
    assert torch.equal(model(**inputs()).logits, plain)
    model.active_adapters = "a"
    assert torch.equal(model(**inputs()).logits, raised) and not torch.allclose(raised, plain, atol=0.5)
    rows = model(**inputs(), adapter_names=["a", None, None, "a"]).logits
    torch.testing.assert_close(rows, torch.stack([raised[0], plain[1], plain[2], raised[3]]))
    model.save_adapter(tmp_path / "a", "a")
    other = masked(base)
    other.load_adapter(tmp_path / "a", set_active=True)
    assert torch.equal(other(**inputs()).logits, raised)


def test_what_is_tied_may_come_with_a_head_if_it_is_the_same(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = masked(base)
    model.add_adapter("a")
    model.train_adapter("a")
    model.save_adapter(tmp_path / "a", "a", format="adapters")
    state = load_file(tmp_path / "a" / "model_head.safetensors")
    tied = {
        "cls.predictions.decoder.weight": model.get_input_embeddings().weight.detach().clone(),
        "cls.predictions.decoder.bias": state["cls.predictions.bias"].clone(),
    }
    save_file({**state, **tied}, tmp_path / "a" / "model_head.safetensors")
    other = masked(base)
    other.load_adapter(tmp_path / "a", set_active=True)
    tied["cls.predictions.decoder.weight"] += 1
    save_file({**state, **tied}, tmp_path / "a" / "model_head.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder\.weight"):
        other.load_adapter(tmp_path / "a", load_as="b")


def test_a_head_on_a_class_that_is_the_transformer_itself(tmp_path: Path) -> None:
    """T5ForQuestionAnswering has no inner T5Model: its two towers and its head stand side by side."""
    write_model(tmp_path / "t5", "t5")
    torch.manual_seed(0)
    model = ah.init(transformers.T5ForQuestionAnswering.from_pretrained(tmp_path / "t5")).eval()
    model.add_adapter("a")
    model.train_adapter("a")
    assert trainable(model) == {"qa_outputs.weight", "qa_outputs.bias"}
    batch = {**inputs(), "decoder_input_ids": inputs()["input_ids"]}
    train(model, {**batch, "start_positions": torch.tensor([1, 2, 3, 4]), "end_positions": torch.tensor([2, 3, 4, 5])})
    wanted = model(**batch).start_logits
    model.save_adapter(tmp_path / "a", "a")
    torch.manual_seed(1)
    other = ah.init(transformers.T5ForQuestionAnswering.from_pretrained(tmp_path / "t5")).eval()
    other.load_adapter(tmp_path / "a", set_active=True)
    torch.testing.assert_close(other(**batch).start_logits, wanted, rtol=0, atol=1e-6)
    flexible = ah.AutoAdapterModel.from_pretrained(tmp_path / "t5").eval()
    flexible.load_adapter(tmp_path / "a", set_active=True)
    torch.testing.assert_close(flexible(**batch).start_logits, wanted, rtol=0, atol=1e-5)
