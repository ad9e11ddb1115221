"""The frozen-prefix cache: the same losses and weights as without it, whatever the batches, and less work."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from packages.core.tests.small_models import write_model

import adapterhub.core as ah
from adapterhub.core.training import PrefixCache
from adapterhub.core.training.prefix_cache import frozen_layers
from adapterhub.spec.errors import InvalidConfigError

KINDS = ["bert", "roberta", "distilbert", "gpt2", "llama", "bart"]
SIZES: dict[str, dict[str, Any]] = {
    "bert": {"num_hidden_layers": 4},
    "roberta": {"num_hidden_layers": 4},
    "distilbert": {"n_layers": 4},
    "gpt2": {"n_layer": 4},
    "llama": {"num_hidden_layers": 4},
    "bart": {"encoder_layers": 4},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_model(folder / kind, kind, **SIZES[kind])
    return folder


def model_for(models: Path, kind: str, leave_out: tuple[int, ...] = (0, 1), *, on_sum: bool = True) -> Any:
    torch.manual_seed(0)
    model = ah.AutoModelForSequenceClassification.from_pretrained(models / kind)
    model.add_adapter(
        "a", config=f"pfeiffer[leave_out={list(leave_out)},reduction_factor=4,original_ln_before={str(on_sum).lower()}]"
    )
    model.train_adapter("a")
    return model


def examples(count: int = 12) -> list[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(5)
    lengths = [4 + number % 5 for number in range(count)]
    return [
        (torch.cat([torch.randint(3, 96, (n,), generator=generator), torch.tensor([2])]), i % 2)
        for i, n in enumerate(lengths)
    ]


def batches(epoch: int, shuffled: bool) -> list[dict[str, torch.Tensor]]:
    rows = examples()
    if shuffled:
        random.Random(epoch).shuffle(rows)
    made = []
    for start in range(0, len(rows), 4):
        part = rows[start : start + 4]
        width = max(len(ids) for ids, _ in part)
        ids = torch.stack([torch.nn.functional.pad(ids, (0, width - len(ids))) for ids, _ in part])
        mask = torch.stack([(torch.arange(width) < len(ids)).long() for ids, _ in part])
        made.append({"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([label for _, label in part])})
    return made


def train(model: Any, cache: Any, shuffled: bool, epochs: int = 3) -> list[float]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    with cache:
        for epoch in range(epochs):
            model.train()
            torch.manual_seed(epoch)
            for batch in batches(epoch, shuffled):
                loss = model(**batch).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(float(loss.detach()))
    return losses


class DropoutOff(contextlib.AbstractContextManager[None]):
    """What the cache does to dropout, without a cache. Upper layers keep theirs."""

    def __init__(self, model: Any) -> None:
        from adapterhub.core.pool import pool_of

        self.modules = PrefixCache(model).below
        self.base = pool_of(model).base_model

    def __enter__(self) -> None:
        def off(*_: Any) -> None:
            for module in self.modules:
                module.training = False

        self.handle = self.base.register_forward_pre_hook(off)

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("on_sum", [True, False])
@pytest.mark.parametrize(("kind", "shuffled"), [("bert", False), *((kind, True) for kind in KINDS)])
def test_losses_are_those_of_training_without_it(models: Path, kind: str, shuffled: bool, on_sum: bool) -> None:
    plain = model_for(models, kind, on_sum=on_sum)
    wanted = train(plain, DropoutOff(plain), shuffled)
    model = model_for(models, kind, on_sum=on_sum)
    cache = PrefixCache(model)
    assert cache.depth == 2
    assert (cache.site is not None) == (on_sum and kind not in ("gpt2", "llama"))
    got = train(model, cache, shuffled)
    assert cache.hits == 6 and cache.misses == 3
    assert got == pytest.approx(wanted, abs=2e-6)
    if not shuffled:
        assert got[:3] == wanted[:3]
    for (name, one), (_, other) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=0, msg=name)
    assert all("forward" not in layer.__dict__ for layer in cache.layers)


def test_a_file_and_a_budget_give_the_same(models: Path, tmp_path: Path) -> None:
    model = model_for(models, "bert")
    cache = PrefixCache(model)
    whole = train(model, cache, shuffled=True)
    model = model_for(models, "bert")
    cache = PrefixCache(model, folder=tmp_path, max_bytes=1 << 20)
    assert train(model, cache, shuffled=True) == whole and cache.hits == 6
    assert list(tmp_path.iterdir()) == []
    model = model_for(models, "bert")
    cache = PrefixCache(model, max_bytes=2000)  # a few examples fit: batches with others run in full
    assert train(model, cache, shuffled=True) == pytest.approx(whole, abs=2e-6)
    assert cache.hits < 6


def test_known_examples_start_at_the_norm_where_the_first_adapter_is(models: Path) -> None:
    model = model_for(models, "bert")
    calls: list[str] = []
    for name, module in model.bert.encoder.layer[2].named_modules():
        if name in ("attention", "intermediate", "output.LayerNorm"):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    cache = PrefixCache(model)
    assert cache.site is not None and cache.site.key == "encoder.2.ffn"
    train(model, cache, shuffled=False, epochs=1)
    assert calls.count("attention") == calls.count("output.LayerNorm") == 3
    calls.clear()
    train(model, cache, shuffled=False, epochs=2)
    assert (
        calls.count("attention") == calls.count("intermediate") == 3
    )  # of the first epoch: leaving the cache empties it
    assert calls.count("output.LayerNorm") == 6
    everything = model_for(models, "bert")
    everything.bert.encoder.layer[2].attention.output.dense.bias.requires_grad_(True)
    assert PrefixCache(everything).site is None


def test_a_layer_that_does_more_after_its_norm_is_run_from_its_beginning(models: Path) -> None:
    def doubled(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return 2 * output

    losses = []
    for cached in (True, False):
        model = model_for(models, "bert")
        model.bert.encoder.layer[2].output.register_forward_hook(doubled)
        cache = PrefixCache(model)
        losses.append(train(model, cache if cached else DropoutOff(model), shuffled=False))
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_lower_layers_do_not_run_for_known_examples(models: Path) -> None:
    model = model_for(models, "bert", on_sum=False)
    calls = [0, 0, 0, 0]
    for number, layer in enumerate(model.bert.encoder.layer):
        layer.attention.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
    train(model, PrefixCache(model), shuffled=False, epochs=2)
    assert calls == [3, 3, 6, 6]


def test_the_depth_follows_what_trains(models: Path) -> None:
    assert frozen_layers(model_for(models, "bert", (0,))) == 1
    assert frozen_layers(model_for(models, "bert", (0, 1, 2))) == 3
    model = model_for(models, "bert", ())
    assert frozen_layers(model) == 0
    with pytest.raises(InvalidConfigError, match="leave_out"):
        PrefixCache(model)
    model = model_for(models, "bert")
    model.train_adapter("a", train_embeddings=True)
    assert frozen_layers(model) == 0


def test_frozen_adapters_below_are_part_of_what_is_kept(models: Path) -> None:
    def stacked() -> Any:
        model = model_for(models, "bert")
        model.add_adapter("lang", config="pfeiffer")
        for tensor in model.get_adapter("lang").values():
            torch.nn.init.normal_(tensor, std=0.2, generator=torch.Generator().manual_seed(1))
        model.train_adapter("a")
        model.active_adapters = ah.Stack("lang", "a")
        return model

    plain = stacked()
    wanted = train(plain, DropoutOff(plain), shuffled=True)
    model = stacked()
    assert train(model, PrefixCache(model), shuffled=True) == pytest.approx(wanted, abs=2e-6)


def test_asking_for_all_hidden_states_runs_in_full(models: Path) -> None:
    model = model_for(models, "bert")
    batch = batches(0, False)[0]
    with PrefixCache(model) as cache:
        model.eval()
        model(**batch)
        kept = model(**batch, output_hidden_states=True).hidden_states
        assert cache.hits == 0
    for one, other in zip(kept, model(**batch, output_hidden_states=True).hidden_states, strict=True):
        assert torch.equal(one, other)


def test_the_trainer_takes_it_as_an_option(models: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    rows = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": label} for ids, label in examples(8)]
    rows = [{key: value[:5] if key != "labels" else value for key, value in row.items()} for row in rows]

    def run(cache: bool | Path) -> list[float]:
        model = model_for(models, "bert")
        options = transformers.TrainingArguments(
            str(tmp_path / "out"),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = ah.AdapterTrainer(model, options, train_dataset=rows, prefix_cache=cache)
        with contextlib.nullcontext() if cache else DropoutOff(model):
            trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert run(True) == pytest.approx(run(False), abs=1e-4)
    assert run(tmp_path / "kept") == run(True)


@pytest.mark.parametrize("on_sum", [True, False])
def test_gradient_checkpointing_gives_the_same_losses(models: Path, on_sum: bool) -> None:
    plain = model_for(models, "bert", on_sum=on_sum)
    wanted = train(plain, DropoutOff(plain), shuffled=False)
    model = model_for(models, "bert", on_sum=on_sum)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    cache = PrefixCache(model)
    assert train(model, cache, shuffled=False) == pytest.approx(wanted, abs=2e-6)
    assert cache.hits == (6 if on_sum else 0)  # what is checkpointed and computed again must start where it started
