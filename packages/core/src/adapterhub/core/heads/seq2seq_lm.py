"""Sequence-to-sequence language modelling: the decoder's positions predict the target."""

from __future__ import annotations

from torch.nn import functional as F
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import HeadInput
from adapterhub.core.heads.language_modelling import LanguageModelHead

__all__ = ["Seq2SeqLMHead"]


class Seq2SeqLMHead(LanguageModelHead):
    """Cross-entropy of decoder position t against label t (the decoder's inputs are the labels moved by one)."""

    head_type = "seq2seq_lm"

    def forward(self, given: HeadInput) -> ModelOutput:
        logits = self.logits(given)
        loss, labels = None, given.get("labels")
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.reshape(-1))
        return Seq2SeqLMOutput(loss=loss, logits=logits, **given.kept())
