"""The best of several continuations or answers."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F
from transformers.modeling_outputs import MultipleChoiceModelOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import DenseStack, HeadInput, PredictionHead, sequence_summary
from adapterhub.spec.heads import HeadConfig

__all__ = ["MultipleChoiceHead"]


class MultipleChoiceHead(PredictionHead):
    """Logits [B, num_choices]: the inputs come as [B, num_choices, T] and go through the model as [B * num_choices, T]."""

    head_type = "multiple_choice"

    def __init__(self, config: HeadConfig, model_config: Any) -> None:
        super().__init__(config, model_config)
        self.num_choices = config.num_choices or 2
        self.layers = DenseStack(config, self.hidden_size, 1, self.dropout_prob)

    def forward(self, given: HeadInput) -> ModelOutput:
        scores = self.layers(sequence_summary(given, self.model_config, self.config.use_pooler))
        choices = given.get("num_choices") or self.num_choices
        logits = scores.view(-1, choices)
        loss, labels = None, given.get("labels")
        if labels is not None:
            loss = F.cross_entropy(logits, labels.view(-1))
        kept = {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
        return MultipleChoiceModelOutput(loss=loss, logits=logits, **kept)
