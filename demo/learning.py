"""The training loop and the evaluation, the same for the head alone and for the adapter: plain PyTorch, nothing of ours in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from demo.report import counting
from demo.snippets import LABELS, Snippet

LENGTH = 128  # tokens; longer snippets are cut


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    learning_rate: float = 1e-3
    epochs: int = 2
    batch_size: int = 32
    seed: int = 0


def stock_model(folder: Path, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A stock transformers classifier with a fresh head, and its tokenizer."""
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    model = AutoModelForSequenceClassification.from_pretrained(folder, **labels)
    return model, AutoTokenizer.from_pretrained(folder)


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def shuffled_batches(lengths: Sequence[int], size: int, source: random.Random) -> list[Sequence[int]]:
    """Random batches of rows of like length (sorted within random chunks), so that little is computed on padding."""
    order = list(range(len(lengths)))
    source.shuffle(order)
    batches = [
        batch for chunk in _chunks(order, size * 16) for batch in _chunks(sorted(chunk, key=lengths.__getitem__), size)
    ]
    source.shuffle(batches)
    return batches


def _encode(tokenizer: PreTrainedTokenizerBase, snippets: Sequence[Snippet]) -> list[list[int]]:
    return tokenizer([s.text for s in snippets], truncation=True, max_length=LENGTH)["input_ids"]


def _pad(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> dict[str, torch.Tensor]:
    return dict(tokenizer.pad({"input_ids": rows}, return_tensors="pt"))


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, snippets: Sequence[Snippet], recipe: Recipe, title: str
) -> float:
    """Train every parameter that asks for gradients with AdamW at a constant rate; return the last epoch's mean loss."""
    torch.manual_seed(recipe.seed)
    source = random.Random(recipe.seed)
    rows = _encode(tokenizer, snippets)
    labels = torch.tensor([s.label for s in snippets])
    lengths = [len(row) for row in rows]
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate)
    model.train()
    mean = 0.0
    with counting(title, steps) as advance:
        for _epoch in range(recipe.epochs):
            total = 0.0
            for batch in shuffled_batches(lengths, recipe.batch_size, source):
                output = model(**_pad(tokenizer, [rows[i] for i in batch]), labels=labels[batch])
                output.loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                total += float(output.loss.detach()) * len(batch)
                advance(f"loss {float(output.loss.detach()):.3f}")
            mean = total / len(rows)
    model.eval()
    return mean


@torch.inference_mode()
def predict(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, snippets: Sequence[Snippet], title: str
) -> torch.Tensor:
    """Logits [snippets, labels] in evaluation mode; batches depend on the texts alone, so that two processes compute alike."""
    rows = _encode(tokenizer, snippets)
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    logits = torch.empty(len(rows), len(LABELS))
    model.eval()
    batches = list(_chunks(order, 64))
    with counting(title, len(batches)) as advance:
        for batch in batches:
            logits[list(batch)] = model(**_pad(tokenizer, [rows[i] for i in batch])).logits
            advance("")
    return logits


def accuracy(logits: torch.Tensor, snippets: Sequence[Snippet]) -> float:
    """Share of snippets whose larger logit is that of their label."""
    return float((logits.argmax(dim=-1) == torch.tensor([s.label for s in snippets])).float().mean())
