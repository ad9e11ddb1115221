"""What the three language-model heads share: dense layers, the inverse of an invertible adapter, the vocabulary."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from adapterhub.core.heads.base import HeadInput, PredictionHead, activation
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.heads import HeadConfig

__all__ = ["LanguageModelHead"]


class LanguageModelHead(PredictionHead):
    """[B, T, H] → [B, T, vocabulary].

    `layers - 1` times dense, activation and (with `layer_norm`) a norm; then the inverse of the active invertible adapter
    (Pfeiffer et al., 2020, MAD-X); then the output embeddings. These are tied to the input embeddings of the model when
    the head is put on it (`tie`) and are then neither trained nor saved.
    """

    is_language_model = True

    def __init__(self, config: HeadConfig, model_config: Any) -> None:
        super().__init__(config, model_config)
        vocabulary = config.vocab_size or getattr(model_config, "vocab_size", None)
        if vocabulary is None:
            raise InvalidConfigError("The model names no vocabulary size; a language-model head needs one.")
        width = config.embedding_size or getattr(model_config, "embedding_size", None) or self.hidden_size
        self.dense, self.norm = nn.ModuleList(), nn.ModuleList()
        for position in range(config.layers - 1):
            size = width if position == config.layers - 2 else self.hidden_size
            self.dense.append(nn.Linear(self.hidden_size, size))
            eps = getattr(model_config, "layer_norm_eps", None) or 1e-12
            self.norm.append(nn.LayerNorm(size, eps=eps) if config.layer_norm else nn.Identity())
        self.out = nn.Linear(width if config.layers > 1 else self.hidden_size, int(vocabulary), bias=config.bias)
        self.act = activation(config.activation_function or "gelu")
        for linear in (*self.dense, self.out):
            nn.init.normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def tie(self, embeddings: nn.Module) -> bool:
        """Takes the matrix of the model's embeddings [vocabulary, width] as output layer; False where the shapes differ."""
        weight = getattr(embeddings, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.shape != self.out.weight.shape:
            return False
        self.out.weight = weight
        return True

    def logits(self, given: HeadInput) -> Tensor:
        """Scores over the vocabulary for every position."""
        x = self.tokens(given)
        for linear, norm in zip(self.dense, self.norm, strict=True):
            x = norm(self.act(linear(x)))
        if given.inverse is not None:
            x = given.inverse(x)
        scores: Tensor = self.out(x)
        return scores
