"""Prefixes in DeBERTa's attention (He et al., 2021, arXiv:2006.03654), which scores contents and relative positions apart.

Its modules neither choose a function nor leave a place between their maps and the softmax, so what they do with the text is
written here, by their own maps and their own scores of positions. A prefix has no position: it is scored by its content.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["attend_disentangled"]


def attend_disentangled(
    module: Any,
    keys: Tensor,
    values: Tensor,
    hidden: Tensor,
    mask: Tensor,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What a `DisentangledSelfAttention` of DeBERTa or DeBERTa-v2 computes, with a prefix in front of the text.

    Args:
        keys, values: of the prefix, [B, h, P, n].
        hidden: the text, [B, T, d].
        mask: what each token sees, bool [B, 1, T, P + T].
        query_states, relative_pos, rel_embeddings: as the module takes them.

    Returns:
        The output [B, T, h · n], and the shares of attention [B, h, T, P + T].
    """
    query, key, value = _maps(module, hidden, hidden if query_states is None else query_states)
    factor = _factor(module)
    scale = math.sqrt(query.shape[-1] * factor)
    scores = torch.cat(
        (
            query @ keys.transpose(-1, -2) / scale,
            query @ key.transpose(-1, -2) / scale
            + _positions(module, query, key, relative_pos, rel_embeddings, factor),
        ),
        -1,
    )
    if getattr(module, "head_logits_proj", None) is not None:
        scores = module.head_logits_proj(scores.movedim(1, -1)).movedim(-1, 1)
    shares = module.dropout(scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1))
    if getattr(module, "head_weights_proj", None) is not None:
        shares = module.head_weights_proj(shares.movedim(1, -1)).movedim(-1, 1)
    output = shares @ torch.cat((values, value), 2)
    return output.transpose(1, 2).flatten(2), shares


def _fused(module: Any) -> bool:
    """Whether this is the attention of DeBERTa, whose heads have their queries, keys and values from one map."""
    return hasattr(module, "in_proj")


def _maps(module: Any, hidden: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of the text, [B, h, T, n]."""

    def heads(value: Tensor) -> Tensor:
        return value.unflatten(-1, (module.num_attention_heads, -1)).transpose(1, 2)

    if not _fused(module):
        return heads(module.query_proj(queries)), heads(module.key_proj(hidden)), heads(module.value_proj(hidden))
    query, key, value = heads(module.in_proj(hidden)).chunk(3, -1)
    if queries is not hidden:
        query = heads(module.in_proj(queries)).chunk(3, -1)[0]
    bias, offset = (part.view(module.num_attention_heads, 1, -1) for part in (module.q_bias, module.v_bias))
    return query + bias, key, value + offset


def _factor(module: Any) -> int:
    """How many kinds of scores are added."""
    kinds = module.pos_att_type
    return 1 + (len(kinds) if _fused(module) else sum(kind in kinds for kind in ("c2p", "p2c")))


def _positions(
    module: Any, query: Tensor, key: Tensor, relative_pos: Tensor | None, embeddings: Tensor | None, factor: int
) -> Tensor | float:
    """The scores of the text's relative positions, [B, h, T, T]."""
    if not module.relative_attention or embeddings is None:
        return 0.0
    embeddings = module.pos_dropout(embeddings)
    if _fused(module):
        scaled = query / math.sqrt(query.shape[-1] * factor)
        return module.disentangled_att_bias(scaled, key, relative_pos, embeddings, factor)
    scores = module.disentangled_attention_bias(
        query.flatten(0, 1), key.flatten(0, 1), relative_pos, embeddings, factor
    )
    return scores.unflatten(0, query.shape[:2]) if isinstance(scores, Tensor) else scores
