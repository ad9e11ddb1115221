"""transformers' Trainer with adapters: what it saves, that a resumed run ends like an uninterrupted one, and the best model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packages.core.tests.small_models import inputs, write_model
from safetensors.torch import load_file

import adapterhub.core as ah
from adapterhub.core.training import decays, fusion_regularisation, without_regularisation
from adapterhub.spec.errors import AdapterHubError, CheckpointError, InvalidConfigError

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "bert")


def rows(count: int = 24) -> list[dict[str, Any]]:
    """Texts of either half of the vocabulary; which half is the label."""
    generator = torch.Generator().manual_seed(4)
    made = []
    for number in range(count):
        ids = torch.randint(3, 49, (9,), generator=generator) + 46 * (number % 2)
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": number % 2})
    return made


def model_for(base: Path, flexible: bool = False) -> Any:
    torch.manual_seed(0)
    if flexible:
        model = ah.AutoAdapterModel.from_pretrained(base)
        model.add_classification_head("task")
    else:
        model = ah.AutoModelForSequenceClassification.from_pretrained(base)
    model.add_adapter("task")
    model.train_adapter("task")
    return model


def arguments(folder: Path, **more: Any) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        output_dir=str(folder),
        **{
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 3,
            **more,
        },
    )


def losses(trainer: transformers.Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("flexible", [False, True])
def test_it_trains_saves_adapters_only_and_resumes_where_it_stopped(base: Path, tmp_path: Path, flexible: bool) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    whole = ah.AdapterTrainer(model_for(base, flexible), arguments(tmp_path / "whole", **options), train_dataset=rows())
    whole.train()
    assert losses(whole)[-1] < losses(whole)[0]
    stop = tmp_path / "whole" / "checkpoint-3"
    assert {"task", "adapters.json", "optimizer.pt", "trainer_state.json"} <= set(os.listdir(stop))
    assert not any(name.startswith(("model", "pytorch_model")) for name in os.listdir(stop))
    assert set(os.listdir(stop / "task")) >= {"adapter.safetensors", "head.safetensors"}

    model = model_for(base, flexible)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)  # what is restored must come from the checkpoint
    resumed = ah.AdapterTrainer(model, arguments(tmp_path / "resumed", **options), train_dataset=rows())
    resumed.train(resume_from_checkpoint=str(stop))
    assert losses(resumed) == losses(whole)
    for name, tensor in model.get_adapter("task").items():
        assert torch.equal(tensor, whole.model.get_adapter("task")[name])


def test_the_best_model_comes_back_at_the_end(base: Path, tmp_path: Path) -> None:
    trainer = ah.AdapterTrainer(
        model_for(base),
        arguments(
            tmp_path,
            num_train_epochs=3,
            learning_rate=0.5,  # far too large: later is worse
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
        ),
        train_dataset=rows(),
        eval_dataset=rows(),
    )
    trainer.train()
    seen = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(seen), abs=1e-6)
    best = Path(str(trainer.state.best_model_checkpoint)) / "task" / "adapter.safetensors"
    for key, tensor in load_file(best).items():
        assert torch.equal(tensor, trainer.model.get_adapter("task")[key])


def test_a_trained_folder_loads_like_any_other(base: Path, tmp_path: Path) -> None:
    trainer = ah.AdapterTrainer(model_for(base), arguments(tmp_path), train_dataset=rows())
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    other = ah.AutoModelForSequenceClassification.from_pretrained(base).eval()
    other.load_adapter(tmp_path / "out" / "task", set_active=True)
    with torch.no_grad():
        assert torch.equal(other(**inputs()).logits, trainer.model.eval()(**inputs()).logits)


def test_fusions_train_with_their_regularisation_in_the_loss(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ah.AutoModelForSequenceClassification.from_pretrained(base)
    for name in ("a", "b"):
        model.add_adapter(name)
    model.add_adapter_fusion(["a", "b"])
    model.train_adapter_fusion(ah.Fuse("a", "b"))
    values = [parameter for key, parameter in model._pool.fusions["a,b"].tensors().items() if ".value." in key]
    expected = 0.01 * sum(float((torch.eye(32) - value.detach()).square().sum()) for value in values)
    term = fusion_regularisation(model)
    assert term is not None and float(term.detach()) == pytest.approx(expected, rel=1e-5)
    trainer = ah.AdapterTrainer(model, arguments(tmp_path, save_strategy="steps", save_steps=3), train_dataset=rows())
    batch = {**inputs(), "labels": torch.tensor([0, 1, 0, 1])}
    model.eval()
    plain = float(model(**batch).loss.detach())
    assert float(trainer.compute_loss(model, dict(batch)).detach()) == pytest.approx(plain)
    model.train()
    torch.manual_seed(1)
    with without_regularisation():
        plain = float(model(**batch).loss.detach())
    torch.manual_seed(1)
    assert float(model(**batch).loss.detach()) == pytest.approx(plain + expected, rel=1e-4)
    torch.manual_seed(1)
    assert float(model(**batch, return_dict=False)[0].detach()) == pytest.approx(plain + expected, rel=1e-4)
    assert model(**inputs()).loss is None
    torch.manual_seed(1)
    assert float(trainer.compute_loss(model, dict(batch)).detach()) == pytest.approx(plain + expected, rel=1e-4)
    trainer.train()
    with torch.no_grad():
        for value in values:
            value.zero_()
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-6"))
    assert all(float(value.detach().abs().sum()) > 1 for value in values)


def test_a_loop_of_ones_own_pulls_the_value_matrices_to_the_identity(base: Path) -> None:
    """`loss.backward()` alone has the gradient of the term; a config without regularisation has none."""
    grads = {}
    for regularization in (True, False):
        torch.manual_seed(0)
        model = ah.AutoModelForSequenceClassification.from_pretrained(base)
        for name in ("a", "b"):
            model.add_adapter(name)
        model.add_adapter_fusion(["a", "b"], {"regularization": regularization})
        model.train_adapter_fusion(ah.Fuse("a", "b"))
        values = {key: p for key, p in model._pool.fusions["a,b"].tensors().items() if ".value." in key}
        with torch.no_grad():
            for value in values.values():
                value.mul_(2)
        torch.manual_seed(1)
        model(**inputs(), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        grads[regularization] = {key: value.grad for key, value in values.items()}
    for key, value in values.items():
        pull = grads[True][key] - grads[False][key]
        torch.testing.assert_close(pull, 0.02 * (value.detach() - torch.eye(32)), rtol=1e-3, atol=1e-5)


def test_resuming_into_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    trainer = ah.AdapterTrainer(model_for(base), arguments(tmp_path / "one"), train_dataset=rows())
    trainer.save_model(str(tmp_path / "kept"))
    model = ah.AutoModelForSequenceClassification.from_pretrained(base)
    model.add_adapter("task", config="houlsby")
    model.train_adapter("task")
    other = ah.AdapterTrainer(model, arguments(tmp_path / "two"), train_dataset=rows())
    with pytest.raises(CheckpointError, match="does not fit"):
        other._load_from_checkpoint(str(tmp_path / "kept"))
    with pytest.raises(CheckpointError, match=r"adapters\.json"):
        other._load_from_checkpoint(str(tmp_path))


def test_a_model_on_which_nothing_trains_is_refused(base: Path, tmp_path: Path) -> None:
    model = ah.AutoModelForSequenceClassification.from_pretrained(base)
    model.add_adapter("a")
    model.freeze_model()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InvalidConfigError, match="train_adapter"):
        ah.AdapterTrainer(model, arguments(tmp_path))
    with pytest.raises(AdapterHubError, match="init"):
        ah.AdapterTrainer(transformers.AutoModelForSequenceClassification.from_pretrained(base), arguments(tmp_path))


def test_norms_scales_and_projections_do_not_decay() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    assert decays("encoder.0.ffn.down.weight", matrix)
    assert not decays("encoder.0.ffn.down.bias", vector)
    assert not decays("encoder.layer.0.adapterhub_layer.a.prefix.projection", matrix)
    assert not decays("encoder.layer.0.adapterhub_ffn.a.norm_before.weight", vector)


def test_sequence_to_sequence_with_generation(tmp_path: Path) -> None:
    base = write_model(tmp_path / "t5", "t5")
    torch.manual_seed(0)
    model = ah.AutoModelForSeq2SeqLM.from_pretrained(base)
    model.add_adapter("task")
    model.train_adapter("task")
    targets = inputs(8, 5, seed=9)["input_ids"]
    data = [
        {"input_ids": row["input_ids"], "attention_mask": row["attention_mask"], "labels": target}
        for row, target in zip(rows(8), targets, strict=True)
    ]
    shared = arguments(tmp_path / "out").to_dict()
    kept = {
        key: shared[key]
        for key in ("output_dir", "learning_rate", "use_cpu", "disable_tqdm", "report_to", "save_strategy")
    }
    options = transformers.Seq2SeqTrainingArguments(
        **kept, predict_with_generate=True, generation_max_length=6, num_train_epochs=2, logging_steps=1
    )
    model.generation_config.max_length = 6  # answers are padded to it
    trainer = ah.Seq2SeqAdapterTrainer(model, options, train_dataset=data, eval_dataset=data)
    trainer.train()
    predicted = trainer.predict(data)
    assert predicted.predictions.shape == (8, 6)
