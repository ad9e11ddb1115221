"""Causal language modelling: each position predicts the next token."""

from __future__ import annotations

from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from adapterhub.core.caches import CACHE_NAMES
from adapterhub.core.heads.base import HeadInput
from adapterhub.core.heads.language_modelling import LanguageModelHead

__all__ = ["CausalLMHead"]


class CausalLMHead(LanguageModelHead):
    """Cross-entropy of position t against label t + 1; labels of -100 are left out."""

    head_type = "causal_lm"

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.logits(given)
        loss, labels = None, given.get("labels")
        if labels is not None:
            of_text = logits[:, logits.shape[1] - labels.shape[1] :]
            loss = F.cross_entropy(of_text[:, :-1].flatten(0, 1), labels[:, 1:].reshape(-1))
        names = (*CACHE_NAMES, "hidden_states", "attentions")
        kept = {name: value for name, value in given.kept().items() if name in names}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **kept)
