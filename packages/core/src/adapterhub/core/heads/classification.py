"""One label for a text, or a score (one label: regression)."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import DenseStack, HeadInput, PredictionHead, sequence_summary
from adapterhub.spec.heads import HeadConfig

__all__ = ["ClassificationHead"]


class ClassificationHead(PredictionHead):
    """Logits [B, num_labels] from the vector of the text; cross-entropy, or mean squared error where num_labels is 1."""

    head_type = "classification"

    def __init__(self, config: HeadConfig, model_config: Any) -> None:
        super().__init__(config, model_config)
        self.num_labels = config.num_labels or 2
        self.layers = DenseStack(config, self.hidden_size, self.num_labels, self.dropout_prob)

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.layers(sequence_summary(given, self.model_config, self.config.use_pooler))
        loss, labels = None, given.get("labels")
        if labels is not None:
            if self.num_labels == 1:
                loss = F.mse_loss(logits.view(-1), labels.view(-1).to(logits.dtype))
            else:
                loss = F.cross_entropy(logits.view(-1, self.num_labels), labels.view(-1))
        return SequenceClassifierOutput(loss=loss, logits=logits, **_known(given))


def _known(given: HeadInput) -> dict[str, Any]:
    return {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
