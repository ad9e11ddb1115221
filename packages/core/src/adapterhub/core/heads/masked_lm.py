"""Masked language modelling (Devlin et al., 2019)."""

from __future__ import annotations

from torch.nn import functional as F
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import HeadInput
from adapterhub.core.heads.language_modelling import LanguageModelHead

__all__ = ["MaskedLMHead"]


class MaskedLMHead(LanguageModelHead):
    """Cross-entropy over the positions whose label is not -100."""

    head_type = "masked_lm"

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.logits(given)
        loss, labels = None, given.get("labels")
        if labels is not None:
            loss = F.cross_entropy(logits[:, logits.shape[1] - labels.shape[1] :].flatten(0, 1), labels.reshape(-1))
        kept = {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
        return MaskedLMOutput(loss=loss, logits=logits, **kept)
