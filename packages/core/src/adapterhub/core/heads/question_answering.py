"""The span of a text that answers a question."""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import DenseStack, HeadInput, PredictionHead
from adapterhub.spec.heads import HeadConfig

__all__ = ["QuestionAnsweringHead"]


class QuestionAnsweringHead(PredictionHead):
    """Start and end logits [B, T]; the mean of two cross-entropies, positions outside the text left out."""

    head_type = "question_answering"

    def __init__(self, config: HeadConfig, model_config: Any) -> None:
        super().__init__(config, model_config)
        self.layers = DenseStack(config, self.hidden_size, config.num_labels or 2, self.dropout_prob)

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.layers(self.tokens(given))
        start_logits, end_logits = logits[..., 0].contiguous(), logits[..., 1].contiguous()
        loss, starts, ends = None, given.get("start_positions"), given.get("end_positions")
        if starts is not None and ends is not None:
            length = start_logits.shape[1]
            starts, ends = (position.view(-1).clamp(0, length) for position in (starts, ends))
            loss = (
                F.cross_entropy(start_logits, starts, ignore_index=length)
                + F.cross_entropy(end_logits, ends, ignore_index=length)
            ) / 2
        kept = {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_logits, end_logits=end_logits, **kept)
