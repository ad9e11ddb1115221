"""One label, or several, for an image."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import HeadInput, sequence_summary
from adapterhub.core.heads.classification import ClassificationHead

__all__ = ["ImageClassificationHead"]


class ImageClassificationHead(ClassificationHead):
    """Logits [B, num_labels] from the state of the class token, or from the pooler.

    Integer labels [B] give cross-entropy, floating ones [B, num_labels] binary cross-entropy, one label a squared error.
    """

    head_type = "image_classification"

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.layers(sequence_summary(given, self.model_config, self.config.use_pooler))
        labels = given.get("labels")
        kept = {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
        return ImageClassifierOutput(loss=None if labels is None else self._loss(logits, labels), logits=logits, **kept)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.num_labels == 1:
            return F.mse_loss(logits.view(-1), labels.view(-1).to(logits.dtype))
        if labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels.view(-1))
