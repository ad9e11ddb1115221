"""Dependency parsing: for every word its head word and the relation to it, by biaffine attention.

Dozat & Manning (2017) in the light form of Glavaš & Vulić (2021): biaffine products straight over word vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from adapterhub.core.heads.base import HeadInput, PredictionHead
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.heads import HeadConfig

__all__ = ["Biaffine", "DependencyParsingHead", "DependencyParsingOutput"]


@dataclass
class DependencyParsingOutput(ModelOutput):
    """Scores of arcs [B, W, 1 + W] (column 0 is the root) and of relations [B, W, 1 + W, num_labels]."""

    loss: Tensor | None = None
    arc_logits: Tensor | None = None
    rel_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Biaffine(nn.Module):
    """x [B, N, in], y [B, M, in] → [B, N, M, out] with s_o(x, y) = [x; 1]^T W_o [y; 1]."""

    def __init__(self, size: int, out: int, bias_x: bool = True, bias_y: bool = True) -> None:
        super().__init__()
        self.bias_x, self.bias_y = bias_x, bias_y
        self.weight = nn.Parameter(torch.empty(out, size + bias_x, size + bias_y))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.bias_x:
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)
        if self.bias_y:
            y = torch.cat([y, y.new_ones(*y.shape[:-1], 1)], dim=-1)
        return torch.einsum("bnx,oxy,bmy->bnmo", x, self.weight, y)


class DependencyParsingHead(PredictionHead):
    """Arcs and relations for the words of a sentence.

    Arguments of the call: `word_starts` [B, W + 1], the position of each word's first token and of the end of the last
    word, padded with -1; for a loss also `labels_arcs` [B, W] (0 is the root, padded with -100) and `labels_rels` [B, W].
    The root is the first token's state.
    """

    head_type = "dependency_parsing"

    def __init__(self, config: HeadConfig, model_config: Any) -> None:
        super().__init__(config, model_config)
        self.num_labels = config.num_labels or 2
        self.dropout = nn.Dropout(self.dropout_prob)
        self.arcs = Biaffine(self.hidden_size, 1, bias_x=True, bias_y=False)
        self.rels = Biaffine(self.hidden_size, self.num_labels)

    def forward(self, given: HeadInput) -> ModelOutput:
        starts = given.get("word_starts")
        if starts is None:
            raise InvalidConfigError("Dependency parsing needs `word_starts` [batch, words + 1] beside the tokens.")
        hidden = self.dropout(given.hidden)
        words, real = _words(hidden, starts)
        heads = torch.cat([hidden[:, :1], words], dim=1)
        arcs = self.arcs(words, heads).squeeze(-1)
        rels = self.rels(words, heads)
        root = torch.ones(real.shape[0], 1, dtype=torch.bool, device=real.device)
        arcs = arcs.masked_fill(~torch.cat([root, real], dim=1)[:, None], torch.finfo(arcs.dtype).min)
        loss, of_arcs, of_rels = None, given.get("labels_arcs"), given.get("labels_rels")
        if of_arcs is not None and of_rels is not None:
            loss = self._loss(arcs, rels, of_arcs, of_rels)
        kept = {name: value for name, value in given.kept().items() if name in ("hidden_states", "attentions")}
        return DependencyParsingOutput(loss=loss, arc_logits=arcs, rel_logits=rels, **kept)

    def _loss(self, arcs: Tensor, rels: Tensor, of_arcs: Tensor, of_rels: Tensor) -> Tensor:
        """Cross-entropy of the arcs, and of the relations along the true arcs."""
        there = of_arcs >= 0
        truth = of_arcs.clamp(min=0)[..., None, None].expand(-1, -1, 1, self.num_labels)
        along = rels.gather(2, truth).squeeze(2)
        return F.cross_entropy(arcs[there], of_arcs[there]) + F.cross_entropy(along[there], of_rels[there])


def _words(hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the token states of every word [B, W, H], and which words are real [B, W]."""
    begin, end = starts[:, :-1], starts[:, 1:]
    real = (begin >= 0) & (end >= 0)
    position = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (position >= begin[..., None]) & (position < end[..., None]) & real[..., None]
    share = inside.to(hidden.dtype)
    return share @ hidden / share.sum(-1, keepdim=True).clamp(min=1), real
