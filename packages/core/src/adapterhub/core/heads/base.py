"""What all flexible heads share: the stack of dense layers, its size and dropout, and the vector that stands for a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.heads import HeadConfig

__all__ = ["DenseStack", "HeadInput", "PredictionHead", "activation", "sequence_summary", "summary_of", "token_scale"]


@dataclass(slots=True)
class HeadInput:
    """What a head sees of one call.

    Args:
        outputs: what the base model returned.
        arguments: the keyword arguments of the call: `input_ids`, `attention_mask`, `labels`, …
        inverse: undoes the active invertible adapter on [B, T, embedding size]; None where there is none.
    """

    outputs: ModelOutput
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inverse: Callable[[Tensor], Tensor] | None = None

    @property
    def hidden(self) -> Tensor:
        """The last hidden states [B, T, H] (of the decoder, where there are two towers)."""
        hidden: Tensor = self.outputs[0]
        return hidden

    def get(self, name: str) -> Any:
        """The argument `name` of the call, or None."""
        return self.arguments.get(name)

    def kept(self) -> dict[str, Any]:
        """What a head passes on from the base model's outputs beside its logits."""
        return {
            name: value
            for name, value in self.outputs.items()
            if name not in ("last_hidden_state", "pooler_output", "logits", "loss") and value is not None
        }


class PredictionHead(nn.Module):
    """Base of the flexible heads.

    Args:
        config: sizes and kind; see `adapterhub.spec.heads`.
        model_config: the transformers config of the base model, for hidden size and dropout.
    """

    head_type: ClassVar[str]
    #: Whether the head's output layer is the (tied) embedding matrix of the model.
    is_language_model: ClassVar[bool] = False

    def __init__(self, config: HeadConfig, model_config: Any) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = int(getattr(model_config, "hidden_size", 0) or getattr(model_config, "d_model", 0))
        if not self.hidden_size:
            raise InvalidConfigError(f"{type(model_config).__name__} names no hidden size, which a head needs.")
        self.dropout_prob = _dropout(config, model_config)
        self.model_config = model_config

    def forward(self, given: HeadInput) -> ModelOutput:
        """Logits, and a loss where the call has `labels`."""
        raise NotImplementedError

    def tokens(self, given: HeadInput) -> Tensor:
        """The state of every token [B, T, H], as the model's own language-model head gets it: T5 makes it smaller by √H."""
        scale = token_scale(self.model_config)
        return given.hidden if scale == 1.0 else given.hidden * scale


def token_scale(model_config: Any) -> float:
    """By what the last hidden states are multiplied before the vocabulary (Raffel et al., 2020: H^-0.5 with tied embeddings)."""
    return float(model_config.d_model) ** -0.5 if getattr(model_config, "scale_decoder_outputs", False) else 1.0


class DenseStack(nn.Module):
    """`layers` dense layers, dropout before each and an activation between them: [.., in] → [.., out].

    The keys are `dense.0`, `dense.1`, … and `out` for the last one.
    """

    def __init__(
        self, config: HeadConfig, size: int, out: int, dropout: float, default_activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.dense = nn.ModuleList(nn.Linear(size, size) for _ in range(config.layers - 1))
        self.out = nn.Linear(size, out, bias=config.bias)
        self.dropout = nn.Dropout(dropout)
        self.act = activation(config.activation_function or default_activation)
        for linear in (*self.dense, self.out):
            nn.init.normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.dense:
            x = self.act(linear(self.dropout(x)))
        result: Tensor = self.out(self.dropout(x))
        return result


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name, in transformers' spelling or that of old checkpoints."""
    key = {"leakyrelu": "leaky_relu", "gelu_orig": "gelu"}.get(name.lower(), name.lower())
    if key not in ACT2FN:
        raise InvalidConfigError(f"{name!r} is no known activation.")
    function: Callable[[Tensor], Tensor] = ACT2FN[key]
    return function


#: Image models that classify the mean of their patches, which their pooler (without weights of its own) gives.
_POOLED = frozenset({"beit", "data2vec-vision"})


def summary_of(model_config: Any) -> str:
    """What stands for a whole text or image in this kind of model: the `first` token, the `last` (not padding), the last
    `eos`, or what the model itself `pooled`."""
    if getattr(model_config, "model_type", None) in _POOLED:
        return "pooled"
    if getattr(model_config, "is_encoder_decoder", False):
        return "eos"
    kind = str(getattr(model_config, "model_type", ""))
    return "last" if getattr(model_config, "is_decoder", False) or _is_causal(kind) else "first"


def sequence_summary(given: HeadInput, model_config: Any, use_pooler: bool) -> Tensor:
    """One vector a row, [B, H]: the pooled output, or the state of the first, the last, or the last end-of-text token."""
    how = summary_of(model_config)
    if use_pooler or how == "pooled":
        pooled = getattr(given.outputs, "pooler_output", None)
        if pooled is None:
            raise InvalidConfigError("The head uses the pooler, and this model has none.", hint="Set use_pooler=False.")
        result: Tensor = pooled
        return result
    hidden = given.hidden
    if how == "first":
        return hidden[:, 0]
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, _positions(given, model_config, how)]


def _positions(given: HeadInput, model_config: Any, how: str) -> Tensor:
    hidden = given.hidden
    length = hidden.shape[1]
    ids = given.get("decoder_input_ids") if how == "eos" else None
    ids = given.get("input_ids") if ids is None else ids
    offset = 0
    if ids is not None:
        repeats = hidden.shape[0] // ids.shape[0]
        ids = ids.repeat(repeats, 1) if repeats > 1 else ids
        offset = length - ids.shape[1]  # prompt tokens stand in front
    index = torch.arange(length, device=hidden.device)
    if how == "eos" and ids is not None:
        eos = getattr(model_config, "eos_token_id", None)
        found = torch.isin(ids, torch.as_tensor(eos, device=ids.device)) if eos is not None else torch.zeros_like(ids)
        wanted = found.bool()
    elif (mask := given.get("attention_mask")) is not None and mask.dim() == 2 and how == "last":
        repeats = hidden.shape[0] // mask.shape[0]
        wanted = (mask.repeat(repeats, 1) if repeats > 1 else mask).bool()
        offset = length - wanted.shape[1]
    elif ids is not None and (pad := getattr(model_config, "pad_token_id", None)) is not None:
        wanted = ids != pad
    else:
        return torch.full((hidden.shape[0],), length - 1, device=hidden.device)
    positions: Tensor = (wanted * index[offset:]).amax(dim=1).where(wanted.any(dim=1), index[-1])
    return positions


def _is_causal(model_type: str) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _dropout(config: HeadConfig, model_config: Any) -> float:
    if config.dropout_prob is not None:
        return float(config.dropout_prob)
    for name in (
        "classifier_dropout",
        "hidden_dropout_prob",
        "seq_classif_dropout",
        "dropout_rate",
        "dropout",
        "resid_pdrop",
    ):
        value = getattr(model_config, name, None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return 0.0
