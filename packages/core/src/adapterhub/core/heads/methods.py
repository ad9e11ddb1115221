"""The methods about heads that a model with adapters has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapterhub.core.heads.attached import Heads, heads_of
from adapterhub.core.pool import pool_of
from adapterhub.spec.errors import AdapterNotFoundError, InvalidConfigError
from adapterhub.spec.heads import parse_head

__all__ = ["HeadMethods"]


class HeadMethods:
    """Part of `AdapterModelMixin`. The `add_…_head` methods need a model with flexible heads (`AutoAdapterModel`)."""

    @property
    def active_head(self) -> str | None:
        """The head that computes the logits, by name; None is the model's own, or none."""
        return self._heads.active

    @active_head.setter
    def active_head(self, name: str | None) -> None:
        if name is not None and name not in self._heads:
            raise AdapterNotFoundError(
                f"There is no head {name!r} on this model.",
                hint=f"Heads: {', '.join(self._heads.names()) or 'none'}.",
                candidates=self._heads.names(),
            )
        self._heads.activate(name)

    @property
    def head_names(self) -> list[str]:
        """The heads kept by name."""
        return self._heads.names()

    def add_classification_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 2,
        activation_function: str = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
        dropout_prob: float | None = None,
    ) -> None:
        """Text classification: `num_labels` labels, one of them (`multilabel`: any number), or a score where it is 1."""
        self.add_head(
            head_name,
            {
                "head_type": "multilabel_classification" if multilabel else "classification",
                "num_labels": num_labels,
                "layers": layers,
                "activation_function": activation_function,
                "use_pooler": use_pooler,
                "dropout_prob": dropout_prob,
                "label2id": _label2id(id2label),
            },
            overwrite_ok=overwrite_ok,
        )

    def add_multilabel_classification_head(self, head_name: str, num_labels: int = 2, **options: Any) -> None:
        """Text classification with any number of labels for a text."""
        self.add_classification_head(head_name, num_labels, multilabel=True, **options)

    def add_image_classification_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str = "tanh",
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
        dropout_prob: float | None = None,
    ) -> None:
        """Image classification."""
        self.add_head(
            head_name,
            {
                "head_type": "image_classification",
                "num_labels": num_labels,
                "layers": layers,
                "activation_function": activation_function,
                "use_pooler": use_pooler,
                "dropout_prob": dropout_prob,
                "label2id": _label2id(id2label),
            },
            overwrite_ok=overwrite_ok,
        )

    def add_multiple_choice_head(
        self,
        head_name: str,
        num_choices: int = 2,
        layers: int = 2,
        activation_function: str = "tanh",
        overwrite_ok: bool = False,
        use_pooler: bool = False,
        dropout_prob: float | None = None,
    ) -> None:
        """Multiple choice: inputs [batch, choices, tokens]."""
        self.add_head(
            head_name,
            {
                "head_type": "multiple_choice",
                "num_choices": num_choices,
                "layers": layers,
                "activation_function": activation_function,
                "use_pooler": use_pooler,
                "dropout_prob": dropout_prob,
            },
            overwrite_ok=overwrite_ok,
        )

    def add_tagging_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str = "tanh",
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
        dropout_prob: float | None = None,
    ) -> None:
        """One label for every token."""
        self.add_head(
            head_name,
            {
                "head_type": "tagging",
                "num_labels": num_labels,
                "layers": layers,
                "activation_function": activation_function,
                "dropout_prob": dropout_prob,
                "label2id": _label2id(id2label),
            },
            overwrite_ok=overwrite_ok,
        )

    def add_qa_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str = "tanh",
        overwrite_ok: bool = False,
        dropout_prob: float | None = None,
    ) -> None:
        """Extractive question answering: start and end of the answer."""
        self.add_head(
            head_name,
            {
                "head_type": "question_answering",
                "num_labels": num_labels,
                "layers": layers,
                "activation_function": activation_function,
                "dropout_prob": dropout_prob,
            },
            overwrite_ok=overwrite_ok,
        )

    def add_dependency_parsing_head(
        self,
        head_name: str,
        num_labels: int = 2,
        overwrite_ok: bool = False,
        id2label: Mapping[int, str] | None = None,
        dropout_prob: float | None = None,
    ) -> None:
        """Dependency parsing by biaffine attention over words."""
        fields = {"num_labels": num_labels, "label2id": _label2id(id2label), "dropout_prob": dropout_prob}
        self.add_head(head_name, {"head_type": "dependency_parsing", **fields}, overwrite_ok=overwrite_ok)

    def add_masked_lm_head(self, head_name: str, activation_function: str = "gelu", overwrite_ok: bool = False) -> None:
        """Masked language modelling; the output layer is tied to the embeddings."""
        fields = {"layers": 2, "layer_norm": True, "activation_function": activation_function}
        self.add_head(head_name, {"head_type": "masked_lm", **fields}, overwrite_ok=overwrite_ok)

    def add_causal_lm_head(self, head_name: str, overwrite_ok: bool = False) -> None:
        """Causal language modelling; the output layer is tied to the embeddings."""
        fields = {"layers": 1, "bias": False, "shift_labels": True}
        self.add_head(head_name, {"head_type": "causal_lm", **fields}, overwrite_ok=overwrite_ok)

    def add_seq2seq_lm_head(self, head_name: str, overwrite_ok: bool = False) -> None:
        """Sequence-to-sequence language modelling; the output layer is tied to the embeddings."""
        self.add_head(head_name, {"head_type": "seq2seq_lm", "layers": 1, "bias": False}, overwrite_ok=overwrite_ok)

    def add_head(self, head_name: str, config: Any, *, overwrite_ok: bool = False) -> None:
        """A head from a `HeadConfig` or its fields; it becomes the active one.

        Raises:
            InvalidConfigError: fields that make no sense, a name that is taken, or a model whose head is fixed.
        """
        heads = self._heads
        if not heads.flexible:
            raise InvalidConfigError(
                f"A {heads.model_class} has its own head; heads by name are added to models with flexible heads.",
                hint="Load the model with AutoAdapterModel.from_pretrained.",
            )
        heads.put(head_name, parse_head(config), overwrite_ok)  # type: ignore[attr-defined]

    def delete_head(self, head_name: str) -> None:
        """Removes a head."""
        if head_name not in self._heads:
            raise AdapterNotFoundError(f"There is no head {head_name!r} on this model.", candidates=self._heads.names())
        self._heads.delete(head_name)

    def get_labels_dict(self, head_name: str | None = None) -> dict[int, str] | None:
        """Number → label of a head (the active one by default), or None where it has no names for them."""
        name = head_name or self._heads.active
        if name is None and not self._heads.flexible:
            name = ""
        labels = None if name is None else self._heads.config_of(name).label2id
        return None if labels is None else {number: label for label, number in labels.items()}

    def get_labels(self, head_name: str | None = None) -> list[str] | None:
        """The labels of a head in order."""
        labels = self.get_labels_dict(head_name)
        return None if labels is None else [labels[number] for number in sorted(labels)]

    def save_head(self, save_directory: str | os.PathLike[str], head_name: str) -> Path:
        """Writes a head alone: head_config.json and head.safetensors."""
        from adapterhub.core.formats import native
        from adapterhub.core.formats.files import write_folder

        head = self._heads.save(head_name)
        if head is None:
            raise AdapterNotFoundError(f"There is no head {head_name!r} on this model.", candidates=self._heads.names())
        with write_folder(save_directory, owned=native.HEAD_FILES, last="head_config.json") as folder:
            native.write_head(folder, head)
        return Path(save_directory)

    def load_head(self, folder: str | os.PathLike[str], load_as: str | None = None, strict: bool = True) -> str:
        """Reads a head saved alone, or with an adapter; returns its name."""
        from adapterhub.core.formats.heads import read_any_head

        path = Path(folder)
        head = read_any_head(path)
        name = load_as or head.name or path.name
        self._heads.load(name, head, strict)
        return name

    @property
    def _heads(self) -> Heads:
        return heads_of(pool_of(self).model)  # type: ignore[arg-type]


def _label2id(id2label: Mapping[int, str] | None) -> dict[str, int] | None:
    return None if id2label is None else {str(label): int(number) for number, label in id2label.items()}
