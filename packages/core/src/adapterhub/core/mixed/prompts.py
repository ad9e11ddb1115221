"""A different prompt in every row of the batch, among the embedded text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.kept import Kept
from adapterhub.core.methods.prompt import Prompt, placed
from adapterhub.core.operations import Added, Operation
from adapterhub.core.runs import Numbered, numbered

__all__ = ["MixedPrompts", "mixed_prompts"]


def mixed_prompts(
    modules: Sequence[nn.Module | None], counts: Sequence[int] | None, *, expand: bool
) -> Operation | None:
    """The operation for runs of rows, as `several.by_make` has it; None where there are modules of other methods, and where
    rows differ in what stands in front of the prompt: their first token, which of them come first, or how many zeros."""
    if counts is not None:  # a prompt that no row takes lengthens none
        modules = [module for module, count in zip(modules, counts, strict=True) if count]
        counts = [count for count in counts if count]
    present, batch = numbered(modules, counts, expand=expand)
    prompts = [module for module in present if isinstance(module, Prompt)]
    if not prompts or len(prompts) < len(present):
        return None
    if any(prompt.after_first for prompt in prompts):
        alike = len({(prompt.after_first, prompt.tokens.shape[0]) for prompt in prompts}) == 1
        if not alike or None in modules:
            return None
    return MixedPrompts(prompts, batch)


class MixedPrompts(Operation):
    """Runs of rows, each with one prompt, or with none: zeros stand in front of shorter ones and in the place of none.

    Args:
        modules: with the prompt in front; or all behind the first token, of one length, and no row without.
        batch: which row takes which; the number after the last stands for none.
    """

    def __init__(self, modules: Sequence[Prompt], batch: Numbered) -> None:
        self.modules, self.batch = list(modules), batch
        self.stacked = Kept(modules, partial(self._stack, self.modules))

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        prompts = self.stacked.get().index_select(0, self.batch.rows(value.shape[0], value.device))
        return placed(prompts.to(value.dtype), value, after_first=self.modules[0].after_first)

    def tokens_added(self, rows: int) -> list[Added]:
        added = [*(module.added() for module in self.modules), (0, 0)]
        return [added[number] for number in self.batch.numbers(rows)]

    @staticmethod
    def _stack(modules: Sequence[Prompt]) -> Tensor:
        """[N + 1, P, d]; the last is 0."""
        parts = [module.tokens for module in modules]
        length = max(part.shape[0] for part in parts)
        filled = [F.pad(part, (0, 0, length - part.shape[0], 0)) for part in parts]
        return torch.stack([*filled, torch.zeros_like(filled[0])])
