"""Head configs: what stands on the transformer to turn hidden states into predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictStr, ValidationError, model_validator

from adapterhub.spec.canonical import canonical_json, digest_of
from adapterhub.spec.config import SPEC_VERSION, Activation, Count, Probability
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.lazy_model import LazyModel

__all__ = ["HEAD_TYPES", "HeadConfig", "parse_head"]

HeadType = Literal[
    "classification",
    "multilabel_classification",
    "image_classification",
    "multiple_choice",
    "tagging",
    "question_answering",
    "dependency_parsing",
    "masked_lm",
    "causal_lm",
    "seq2seq_lm",
    "static",
]

HEAD_TYPES: tuple[str, ...] = HeadType.__args__  # type: ignore[attr-defined]


class HeadConfig(LazyModel):
    """One prediction head.

    `static` is the head of a task class of transformers, named by `model_class` and stored under its own keys; all others
    are flexible heads: `layers` dense layers with `activation_function` between them, the last one of size `num_labels`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    head_type: HeadType
    num_labels: Count | None = None
    num_choices: Count | None = None
    layers: Count = 1
    activation_function: Activation | None = None
    bias: StrictBool = True
    dropout_prob: Probability | None = None
    use_pooler: StrictBool = False
    label2id: dict[str, int] | None = None
    embedding_size: Count | None = None
    vocab_size: Count | None = None
    layer_norm: StrictBool = False
    shift_labels: StrictBool = False
    model_class: StrictStr | None = Field(None, description="for static heads: the task class of transformers")

    @model_validator(mode="after")
    def _labels(self) -> HeadConfig:
        if self.head_type == "static" and self.model_class is None:
            raise ValueError("a static head needs model_class")
        if self.label2id is not None and self.num_labels is not None and len(self.label2id) != self.num_labels:
            raise ValueError(f"label2id names {len(self.label2id)} labels, num_labels is {self.num_labels}")
        if self.label2id is not None and sorted(self.label2id.values()) != list(range(len(self.label2id))):
            raise ValueError("the numbers in label2id must be 0, 1, 2, … without a gap")
        return self

    def expand(self) -> dict[str, Any]:
        """Every field with its value, in JSON types."""
        return self.model_dump(mode="json")

    def canonical_json(self) -> str:
        """RFC 8785 text of the expanded config with the version of the spec beside it."""
        return canonical_json({"spec_version": SPEC_VERSION, **self.expand()})

    @property
    def config_id(self) -> str:
        """`sha256:` and 64 hex digits: the identity of this config."""
        return digest_of({"spec_version": SPEC_VERSION, **self.expand()})


def parse_head(config: Any, **overrides: Any) -> HeadConfig:
    """A head config from a dict or a config.

    Raises:
        InvalidConfigError: an unknown field or a value that makes no sense.
    """
    fields = config.expand() if isinstance(config, HeadConfig) else config
    if not isinstance(fields, Mapping):
        raise InvalidConfigError(f"A head config cannot be made from {type(config).__name__}.")
    try:
        return HeadConfig.model_validate({**{k: v for k, v in fields.items() if k != "spec_version"}, **overrides})
    except ValidationError as error:
        problems = [{"pointer": "/" + "/".join(map(str, p["loc"])), "message": p["msg"]} for p in error.errors()]
        told = "; ".join(f"{problem['pointer']}: {problem['message']}" for problem in problems)
        raise InvalidConfigError(f"The head config is not valid: {told}.", details={"problems": problems}) from None
