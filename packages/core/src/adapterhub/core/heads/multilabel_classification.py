"""Any number of labels for a text."""

from __future__ import annotations

from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import HeadInput, sequence_summary
from adapterhub.core.heads.classification import ClassificationHead

__all__ = ["MultilabelClassificationHead"]


class MultilabelClassificationHead(ClassificationHead):
    """Logits [B, num_labels]; binary cross-entropy against labels of the same shape, averaged over all entries."""

    head_type = "multilabel_classification"

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.layers(sequence_summary(given, self.model_config, self.config.use_pooler))
        loss, labels = None, given.get("labels")
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        kept = {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
        return SequenceClassifierOutput(loss=loss, logits=logits, **kept)
