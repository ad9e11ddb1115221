"""One label for every token."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import DenseStack, HeadInput, PredictionHead
from adapterhub.spec.heads import HeadConfig

__all__ = ["TaggingHead"]


class TaggingHead(PredictionHead):
    """Logits [B, T, num_labels]; cross-entropy over the tokens whose label is not -100."""

    head_type = "tagging"

    def __init__(self, config: HeadConfig, model_config: Any) -> None:
        super().__init__(config, model_config)
        self.num_labels = config.num_labels or 2
        self.layers = DenseStack(config, self.hidden_size, self.num_labels, self.dropout_prob)

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.layers(given.hidden)
        loss, labels = None, given.get("labels")
        if labels is not None:
            logits_of_text = logits[:, logits.shape[1] - labels.shape[1] :]  # less the tokens of a trained prompt
            loss = F.cross_entropy(logits_of_text.reshape(-1, self.num_labels), labels.reshape(-1))
        kept = {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
        return TokenClassifierOutput(loss=loss, logits=logits, **kept)
