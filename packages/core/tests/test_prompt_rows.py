"""Rows with different prompts, or none, in one batch: each is what it is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packages.core.tests.tiny import close, ids, run, tiny, with_adapters
from torch import Tensor

import adapterhub.core as ah
from adapterhub.spec.errors import InvalidConfigError

CONFIGS = {
    "a": "prompt_tuning[prompt_length=2]",
    "b": "prompt_tuning[prompt_length=5]",
    "c": "prompt_tuning[prompt_length=3,combine=prefix_after_bos]",
    "w": "prompt_tuning[prompt_length=4,combine=prefix_words]",
    "l": "lora[r=2]",
}
ROWS: list[list[Any]] = [
    ["a", "b", None],
    ["b", "c", None, "a"],
    [None, "c"],
    ["w", None, "w"],
    ["l", "a", None],
    [ah.Stack("a", "b"), "a", None],
]
ENCODERS = ["BertModel", "DistilBertModel", "RobertaModel", "DebertaV2Model", "ElectraModel", "T5EncoderModel"]
DECODERS = ["GPT2LMHeadModel", "LlamaForCausalLM", "OPTForCausalLM"]


def padded(rows: int, tokens: int = 6) -> dict[str, Tensor]:
    """Texts the first of which is two tokens shorter."""
    inputs = ids(rows, tokens)
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, -2:] = 0
    return {**inputs, "attention_mask": mask}


def length_of(model: Any, name: Any) -> int:
    names = [] if name is None else name.names() if isinstance(name, ah.Composition) else [name]
    return sum(getattr(model.adapter_config(one), "prompt_length", 0) for one in names)


def sized(model_class: str) -> Any:
    sizes = {"num_key_value_heads": 4} if model_class.startswith("Llama") else {}
    if model_class.startswith("OPT"):
        sizes = {"ffn_dim": 56, "word_embed_proj_dim": 32, "dropout": 0}
    if model_class.startswith("Electra"):
        sizes = {"embedding_size": 32, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    return tiny(model_class, **sizes)


@pytest.mark.parametrize("names", ROWS, ids=lambda names: "-".join(map(str, names)))
@pytest.mark.parametrize("model_class", ENCODERS)
def test_an_encoder_gives_each_row_what_it_is_alone(model_class: str, names: list[Any]) -> None:
    model = with_adapters(sized(model_class), **CONFIGS)
    inputs = padded(len(names))
    together = run(model, inputs, adapter_names=names)
    longest = max(length_of(model, name) for name in names)
    assert together.shape[1] == longest + 6
    for row, name in enumerate(names):
        one = {key: value[row : row + 1] for key, value in inputs.items()}
        alone = run(model, one, name)
        seen = int(one["attention_mask"].sum()) + length_of(model, name)
        assert close(together[row, :seen], alone[0, :seen], 5e-5)


@pytest.mark.parametrize("names", ROWS[:3] + ROWS[4:], ids=lambda names: "-".join(map(str, names)))
@pytest.mark.parametrize("model_class", DECODERS)
def test_a_decoder_goes_on_from_each_row_as_alone(model_class: str, names: list[Any]) -> None:
    model = with_adapters(sized(model_class), **CONFIGS)
    inputs = ids(len(names), 6)
    together = run(model, inputs, adapter_names=names)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    texts = model.generate(**inputs, adapter_names=names, **options)
    slow = model.generate(**inputs, adapter_names=names, use_cache=False, **options)
    for row, name in enumerate(names):
        one = {key: value[row : row + 1] for key, value in inputs.items()}
        alone = run(model, one, name)
        assert close(together[row, -alone.shape[1] :], alone[0], 5e-5)
        model.active_adapters = name
        text = model.generate(**one, **options)[0]
        model.active_adapters = None
        assert torch.equal(texts[row], text) and torch.equal(slow[row], text)


@pytest.mark.parametrize("model_class", ["BertForSequenceClassification", "GPT2ForSequenceClassification"])
def test_classifiers_read_the_token_they_read_alone(model_class: str) -> None:
    model = with_adapters(sized(model_class), **CONFIGS)
    names = ["a", None, "b", "c"]
    inputs = ids(4, 6)
    together = run(model, inputs, adapter_names=names)
    alone = [run(model, {"input_ids": row[None]}, name) for row, name in zip(inputs["input_ids"], names, strict=True)]
    assert close(together, torch.cat(alone), 5e-5)


@pytest.mark.parametrize("model_class", ["BertForTokenClassification", "BertForMaskedLM", "GPT2LMHeadModel"])
@torch.no_grad()
def test_labels_stay_with_their_tokens(model_class: str) -> None:
    model = with_adapters(sized(model_class), **CONFIGS)
    names = ["a", None, "b", "c"]
    inputs = ids(4, 6)
    labels = inputs["input_ids"] % 2
    model.active_adapters = None
    together = model(**inputs, labels=labels, adapter_names=names).loss
    total, count = 0.0, 0
    for row, name in enumerate(names):
        model.active_adapters = name
        tokens = 5 if model_class.startswith("GPT2") and name in (None, "c") else 6  # nothing comes before the first
        one = model(input_ids=inputs["input_ids"][row : row + 1], labels=labels[row : row + 1])
        total, count = total + tokens * float(one.loss), count + tokens
    assert float(together) == pytest.approx(total / count, abs=2e-5)


@torch.no_grad()
def test_labels_and_mask_go_around_a_prompt_behind_the_first_token() -> None:
    model = with_adapters(sized("BertForTokenClassification"), **CONFIGS)
    inputs, labels = ids(2, 6), torch.tensor([[1, 0, 1, -100, 0, 1], [0, 1, 1, 0, 1, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    model.active_adapters = "c"
    output = model(**inputs, attention_mask=mask, labels=labels)
    of_text = torch.cat([output.logits[:, :1], output.logits[:, 4:]], 1)
    assert float(output.loss) == pytest.approx(
        float(torch.nn.functional.cross_entropy(of_text.flatten(0, 1), labels.flatten()))
    )
    other = inputs["input_ids"].clone()
    other[0, :2] = 7  # what the mask leaves out
    changed = model(input_ids=other, attention_mask=mask).logits
    assert close(changed[0, 1:4], output.logits[0, 1:4]) and close(changed[0, 5:], output.logits[0, 5:])


def test_two_towers_see_each_row_as_alone() -> None:
    model = with_adapters(sized("T5ForConditionalGeneration"), **CONFIGS)
    names: list[Any] = ["a", None, "b", "c"]
    inputs = {**padded(4), "decoder_input_ids": ids(4, 3, seed=5)["input_ids"]}
    together = run(model, inputs, adapter_names=names)
    alone = [
        run(model, {key: value[row : row + 1] for key, value in inputs.items()}, name) for row, name in enumerate(names)
    ]
    assert close(together, torch.cat(alone), 5e-5)


def test_a_batch_split_and_a_parallel_fill_up_as_well() -> None:
    model = with_adapters(tiny(), **CONFIGS)
    inputs = ids(3, 6)
    for setup, names, rows in [
        (ah.BatchSplit("a", "b", batch_sizes=[1, 2]), ["a", "b", "b"], [0, 1, 2]),
        (ah.Parallel("a", "b"), ["a"] * 3 + ["b"] * 3, [0, 1, 2, 0, 1, 2]),
    ]:
        together = run(model, inputs, setup)
        for row, (name, source) in enumerate(zip(names, rows, strict=True)):
            alone = run(model, {"input_ids": inputs["input_ids"][source][None]}, name)[0]
            assert close(together[row, : alone.shape[0]], alone, 5e-5)


def test_a_prompt_that_began_as_a_text_is_loaded_without_a_tokenizer() -> None:
    model = with_adapters(tiny(), a="prompt_tuning[prompt_length=2]")
    pool = ah.pool_of(model)
    config = {"method": "prompt", "prompt_length": 2, "prompt_init": "from_string", "prompt_init_text": "good or bad"}
    pool.add("b", config, tensors=pool.get("a").values())
    assert torch.equal(run(model, ids(), "a"), run(model, ids(), "b"))
    with pytest.raises(InvalidConfigError, match="tokenizer"):
        model.add_adapter("c", config=config)


def test_an_encoder_that_is_run_as_a_decoder_goes_on_from_each_row_as_alone() -> None:
    model = with_adapters(tiny("BertLMHeadModel", is_decoder=True), **CONFIGS)
    inputs, names = ids(3, 5), ["a", "b", None]
    together = run(model, inputs, adapter_names=names)
    for row, name in enumerate(names):
        alone = run(model, {"input_ids": inputs["input_ids"][row : row + 1]}, name)[0]
        assert close(together[row, -alone.shape[0] :], alone, 5e-5)
