"""Which parameters weight decay pulls towards zero: matrices, and not those whose size has a meaning."""

from __future__ import annotations

from torch import nn

__all__ = ["decays"]

#: Leaves that must not shrink: norms and scales are around 1, a ReFT projection has orthonormal rows (Wu et al., 2024).
_FIXED = frozenset({"norm_before", "norm_after", "scaling", "magnitude", "scale", "projection", "temperature"})


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter of this name."""
    return parameter.dim() > 1 and not _FIXED & set(name.split("."))
