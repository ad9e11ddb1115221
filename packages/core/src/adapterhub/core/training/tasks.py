"""Kinds of tasks the command line trains: the model class, how rows become tensors, and what is measured.

| task | columns | measured |
|---|---|---|
| classification | text (pair), label | accuracy, macro F1 |
| regression | text (pair), label (a number) | Pearson, Spearman |
| multilabel | text (pair), label (several, by comma or as a list) | micro F1 |
| tagging | tokens, tags (lists, or texts with blanks between) | accuracy, span F1 |
| masked-lm, causal-lm | text | perplexity |
| seq2seq | text, target | perplexity |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adapterhub.core.training import metrics
from adapterhub.core.training.data import Row, column, optional_column
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["TASKS", "Columns", "Task", "task_named"]

_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "multilabel": "AutoModelForSequenceClassification",
    "tagging": "AutoModelForTokenClassification",
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
TASKS = tuple(_CLASSES)

#: Measure by which the best epoch is chosen.
_MAIN = {
    "classification": "accuracy",
    "regression": "spearman",
    "multilabel": "micro_f1",
    "tagging": "span_f1",
    "masked-lm": "perplexity",
    "causal-lm": "perplexity",
    "seq2seq": "perplexity",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns given by the user; None: the usual ones."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    tokens: str | None = None
    tags: str | None = None
    target: str | None = None


@dataclass(slots=True)
class Task:
    """One kind of task on one model's tokenizer.

    Args:
        name: one of `TASKS`.
        tokenizer: of the base model.
        labels: the label names in their order; empty where there are none.
        columns: names of columns.
        length: longest input in tokens.
    """

    name: str
    tokenizer: Any
    labels: list[str] = field(default_factory=list)
    columns: Columns = field(default_factory=Columns)
    length: int = 128

    @property
    def main_metric(self) -> str:
        """The measure the best epoch is chosen by."""
        return _MAIN[self.name]

    @property
    def lower_is_better(self) -> bool:
        return self.main_metric == "perplexity"

    def model(self, name_or_path: str, **kwargs: Any) -> Any:
        """The model of transformers for this task, with adapters' methods."""
        from adapterhub.core import auto

        options: dict[str, Any] = {}
        if self.labels and self.name != "regression":
            options["id2label"] = dict(enumerate(self.labels))
            options["label2id"] = {label: number for number, label in enumerate(self.labels)}
        if self.name == "regression":
            options |= {"num_labels": 1, "problem_type": "regression"}
        if self.name == "multilabel":
            options["problem_type"] = "multi_label_classification"
        return getattr(auto, _CLASSES[self.name]).from_pretrained(name_or_path, **options, **kwargs)

    def learn_labels(self, rows: Sequence[Row]) -> None:
        """Takes the label names from the data, in sorted order (numbers by value)."""
        if self.name in ("classification", "multilabel", "tagging"):
            found = {label for row in rows for label in self._labels_in(row)}
            self.labels = sorted(
                found,
                key=lambda text: (not text.lstrip("-").isdigit(), int(text) if text.lstrip("-").isdigit() else 0, text),
            )
        if self.name == "classification" and len(self.labels) < 2:
            raise InvalidConfigError(f"The data has only the label {self.labels}; two at least are needed.")

    def encode(self, rows: Sequence[Row], with_labels: bool = True) -> list[dict[str, Any]]:
        """Token ids and labels of every row, not padded yet."""
        if self.name == "tagging":
            return [self._encode_tags(row, with_labels) for row in rows]
        text = column(rows, "text", self.columns.text)
        pair = optional_column(rows, "pair", self.columns.pair)
        given = [[_text(row[text]) for row in rows]]
        if pair is not None and self.name in ("classification", "regression", "multilabel"):
            given.append([_text(row[pair]) for row in rows])
        tokens = self.tokenizer(*given, truncation=True, max_length=self.length)
        encoded = [{key: tokens[key][number] for key in tokens} for number in range(len(rows))]
        if self.name == "seq2seq" and with_labels:
            target = column(rows, "target", self.columns.target)
            wanted = self.tokenizer(
                text_target=[_text(row[target]) for row in rows], truncation=True, max_length=self.length
            )
            for item, ids in zip(encoded, wanted["input_ids"], strict=True):
                item["labels"] = ids
        elif self.name == "causal-lm" and with_labels:
            for item in encoded:
                item["labels"] = list(item["input_ids"])
        elif with_labels and self.name in ("classification", "regression", "multilabel"):
            for item, row in zip(encoded, rows, strict=True):
                item["labels"] = self._label_of(row, rows)
        return encoded

    def batch(self, items: Sequence[Mapping[str, Any]], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Padded tensors of some encoded rows; for masked-lm 15 % of the tokens are masked by `generator`."""
        names = [key for key in items[0] if key not in ("labels", "word_ids")]
        padded = self.tokenizer.pad([{key: item[key] for key in names} for item in items], return_tensors="pt")
        found: dict[str, Tensor] = dict(padded)
        width = found["input_ids"].shape[1]
        if self.name == "masked-lm":
            found["input_ids"], found["labels"] = self._masked(found["input_ids"], generator)
        elif "labels" in items[0]:
            labels = [item["labels"] for item in items]
            if self.name in ("tagging", "causal-lm", "seq2seq"):
                size = width if self.name != "seq2seq" else max(map(len, labels))
                left = self.tokenizer.padding_side == "left" and self.name != "seq2seq"
                found["labels"] = torch.tensor([_padded(row, size, left) for row in labels])
            else:
                found["labels"] = torch.tensor(
                    labels, dtype=torch.float32 if self.name != "classification" else torch.long
                )
        return found

    def measure(
        self, logits: Sequence[Tensor], batches: Sequence[Mapping[str, Tensor]], losses: Sequence[float]
    ) -> dict[str, float]:
        """The measures over all batches, from logits and labels."""
        total = sum(_count(batch["labels"]) for batch in batches)
        loss = sum(value * _count(batch["labels"]) for value, batch in zip(losses, batches, strict=True)) / max(
            total, 1
        )
        if self.main_metric == "perplexity":
            return {"loss": loss, "perplexity": metrics.perplexity(loss)}
        if self.name == "tagging":
            return {"loss": loss, **self._measure_tags(logits, batches)}
        scores, truth = torch.cat(list(logits)), torch.cat([batch["labels"] for batch in batches])
        if self.name == "classification":
            guess = scores.argmax(-1)
            found = {
                "accuracy": metrics.accuracy(guess, truth),
                "macro_f1": metrics.macro_f1(guess, truth, len(self.labels)),
            }
        elif self.name == "multilabel":
            found = {"micro_f1": metrics.micro_f1(scores > 0, truth > 0.5)}
        else:
            guess = scores.flatten()
            found = {"pearson": metrics.pearson(guess, truth), "spearman": metrics.spearman(guess, truth)}
        return {"loss": loss, **found}

    def answers(
        self, logits: Tensor, batch: Mapping[str, Tensor], items: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """What is predicted for each row, in words."""
        if self.name == "regression":
            return [{"score": float(value)} for value in logits.flatten()]
        if self.name == "multilabel":
            return [
                {"labels": [label for label, score in zip(self.labels, row, strict=True) if score > 0]}
                for row in logits.tolist()
            ]
        if self.name == "tagging":
            return [
                {"tags": self._tags(row, item)} for row, item in zip(logits.argmax(-1).tolist(), items, strict=True)
            ]
        shares = logits.float().softmax(-1)
        best = shares.argmax(-1)
        return [
            {"label": self.labels[number], "score": round(float(row[number]), 6)}
            for number, row in zip(best.tolist(), shares, strict=True)
        ]

    def _labels_in(self, row: Row) -> Iterable[str]:
        if self.name == "tagging":
            return _listed(row[column([row], "tags", self.columns.tags)])
        value = row[column([row], "label", self.columns.label)]
        return _listed(value, ",") if self.name == "multilabel" else [_text(value)]

    def _label_of(self, row: Row, rows: Sequence[Row]) -> Any:
        if self.name == "regression":
            value = row[column(rows, "label", self.columns.label)]
            try:
                return float(value)
            except (TypeError, ValueError):
                raise InvalidConfigError(f"The label {value!r} is no number, which regression needs.") from None
        labels = list(self._labels_in(row))
        unknown = [label for label in labels if label not in self.labels]
        if unknown:
            raise InvalidConfigError(f"The label {unknown[0]!r} is none of the model's: {', '.join(self.labels)}.")
        if self.name == "multilabel":
            return [float(label in labels) for label in self.labels]
        return self.labels.index(labels[0])

    def _encode_tags(self, row: Row, with_labels: bool) -> dict[str, Any]:
        words = _listed(row[column([row], "tokens", self.columns.tokens)])
        tokens = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.length)
        numbers = tokens.word_ids()
        first = [
            number is not None and (not position or numbers[position - 1] != number)
            for position, number in enumerate(numbers)
        ]
        item = {key: tokens[key] for key in tokens} | {
            "word_ids": [n if f else None for n, f in zip(numbers, first, strict=True)]
        }
        if with_labels:
            tags = list(self._labels_in(row))
            if len(tags) != len(words):
                raise InvalidConfigError(f"A row has {len(words)} tokens and {len(tags)} tags.")
            unknown = [tag for tag in tags if tag not in self.labels]
            if unknown:
                raise InvalidConfigError(f"The tag {unknown[0]!r} is none of the model's: {', '.join(self.labels)}.")
            item["labels"] = [-100 if n is None else self.labels.index(tags[n]) for n in item["word_ids"]]
        return item

    def _tags(self, row: Sequence[int], item: Mapping[str, Any]) -> list[str]:
        left = len(row) - len(item["word_ids"]) if self.tokenizer.padding_side == "left" else 0
        return [self.labels[row[left + place]] for place, number in enumerate(item["word_ids"]) if number is not None]

    def _measure_tags(self, logits: Sequence[Tensor], batches: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        guess: list[list[str]] = []
        truth: list[list[str]] = []
        for scores, batch in zip(logits, batches, strict=True):
            for row, labels in zip(scores.argmax(-1), batch["labels"], strict=True):
                there = labels >= 0
                guess.append([self.labels[number] for number in row[there].tolist()])
                truth.append([self.labels[number] for number in labels[there].tolist()])
        flat = [(one, other) for a, b in zip(guess, truth, strict=True) for one, other in zip(a, b, strict=True)]
        right = sum(one == other for one, other in flat) / max(len(flat), 1)
        bio = any(label.startswith(("B-", "I-")) for label in self.labels)
        return {"accuracy": right, "span_f1": metrics.span_f1(guess, truth) if bio else right}

    def _masked(self, ids: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """BERT's masking (Devlin et al., 2019): of 15 % of the tokens 80 % become the mask, 10 % another token."""
        special = torch.tensor(
            [self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in ids.tolist()],
            dtype=torch.bool,
        )
        chosen = (torch.rand(ids.shape, generator=generator) < 0.15) & ~special
        first = (~special).int().argmax(1)
        for number in range(ids.shape[0]):  # at least one token a row
            if not chosen[number].any() and not special[number].all():
                chosen[number, first[number]] = True
        how = torch.rand(ids.shape, generator=generator)
        labels = ids.masked_fill(~chosen, -100)
        replaced = ids.masked_fill(chosen & (how < 0.8), self.tokenizer.mask_token_id)
        others = torch.randint(len(self.tokenizer), ids.shape, generator=generator)
        return torch.where(chosen & (how >= 0.9), others, replaced), labels


def task_named(name: str) -> str:
    """The task of that name; underscores count as dashes.

    Raises:
        InvalidConfigError: there is none.
    """
    folded = name.lower().replace("_", "-")
    if folded not in TASKS:
        raise InvalidConfigError(f"There is no task {name!r}.", hint=f"Tasks: {', '.join(TASKS)}.")
    return folded


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)


def _listed(value: Any, blank: str | None = None) -> list[str]:
    """A list as it is, a JSON list in a text, or a text cut at blanks (or at `blank`)."""
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    text = str(value).strip()
    if text.startswith("["):
        try:
            return [str(item) for item in json.loads(text)]
        except ValueError:
            pass
    return [part.strip() for part in text.split(blank) if part.strip()]


def _padded(row: Sequence[int], size: int, left: bool) -> list[int]:
    fill = [-100] * (size - len(row))
    return [*fill, *row] if left else [*row, *fill]


def _count(labels: Tensor) -> int:
    return int((labels != -100).sum()) if labels.dtype == torch.long and labels.dim() > 1 else labels.shape[0]
