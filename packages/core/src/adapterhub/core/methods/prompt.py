"""Prompt tuning (Lester et al., 2021, arXiv:2104.08691): trained embeddings in front of those of the text.

    h_0 = [e_1 … e_P ; x_1 … x_T]        e [P, d]; with `combine="prefix_after_bos"` the first token stays in front;
                                                      with `"prefix_words"` x are word embeddings, before positions and norm

The padding mask grows by P ones, and labels a model computes its loss from by P times -100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapterhub.core.methods.parameters import Draw, Source, uniform
from adapterhub.spec.config import PromptTuningConfig
from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from adapterhub.core.operations import Added
    from adapterhub.core.pool import Pool
    from adapterhub.core.sites import Site

__all__ = ["Prompt", "place", "placed"]


def place(config: PromptTuningConfig, pool: Pool, source: Callable[[Site], Source]) -> Iterator[tuple[Site, nn.Module]]:
    """One module behind the embeddings, or among the words."""
    site = pool.prompt_site(config.combine == "prefix_words")
    draw: Draw = uniform(float(config.random_uniform_scale))
    if config.prompt_init == "from_string":
        draw = partial(_from_text, config, pool)
    yield site, Prompt(config, site.width, source(site), draw)


class Prompt(nn.Module):
    """The trained embeddings `tokens` [P, d]."""

    def __init__(self, config: PromptTuningConfig, width: int, source: Source, draw: Draw) -> None:
        super().__init__()
        self.tokens = source("tokens", (config.prompt_length, width), draw)
        self.after_first = config.combine == "prefix_after_bos"

    def added(self) -> Added:
        """How many tokens it puts in front of the first token, and behind it."""
        length = self.tokens.shape[0]
        return (0, length) if self.after_first else (length, 0)

    def forward(self, embedded: Tensor) -> Tensor:
        """[B, P + T, d] from [B, T, d]."""
        prompts = self.tokens.to(embedded.dtype).expand(embedded.shape[0], -1, -1)
        return placed(prompts, embedded, after_first=self.after_first)


def placed(prompts: Tensor, embedded: Tensor, *, after_first: bool) -> Tensor:
    """[B, P + T, d] from the prompt of each row [B, P, d] and its text [B, T, d]; `after_first`: behind the first token."""
    if after_first:
        return torch.cat((embedded[:, :1], prompts, embedded[:, 1:]), 1)
    return torch.cat((prompts, embedded), 1)


def _from_text(config: PromptTuningConfig, pool: Pool, value: Tensor, generator: torch.Generator) -> None:
    """Fill with the embeddings of a text, repeated or cut to the length of the prompt."""
    from transformers import AutoTokenizer

    name = pool.model_name or getattr(pool.base_model.config, "name_or_path", "")
    if not name:
        raise InvalidConfigError("prompt_init='from_string' needs a model that knows where its tokenizer is.")
    ids = AutoTokenizer.from_pretrained(name)(config.prompt_init_text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InvalidConfigError(f"prompt_init_text {config.prompt_init_text!r} has no tokens.")
    weight = pool.base_model.get_input_embeddings().weight  # type: ignore[operator]
    value.copy_(weight.detach().float().cpu()[torch.tensor([ids[i % len(ids)] for i in range(config.prompt_length)])])
