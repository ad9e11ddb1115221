"""The regularisation of AdapterFusion (Pfeiffer et al., 2021): value matrices are kept near the identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.core.plan import fusions_in
from adapterhub.core.pool import pool_of

__all__ = ["WEIGHT", "fusion_regularisation", "regularised", "without_regularisation"]

#: Factor of the term in the loss.
WEIGHT = 0.01

_left_out: ContextVar[bool] = ContextVar("adapterhub_without_regularisation", default=False)


def fusion_regularisation(model: nn.Module) -> Tensor | None:
    """0.01 · sum of ‖I - W_v‖² over the value matrices that train in the active fusions whose config asks for it.

    None where there is nothing to add. A model in training mode that is given labels has it in its loss already; see
    `without_regularisation` for loops that want it apart.
    """
    pool = pool_of(model)
    terms = [
        module.penalty()  # type: ignore[operator]
        for block in fusions_in(pool.plan.setup)
        for module in pool.fusion_of(block).modules.values()
        if getattr(module, "regularized", False) and module.value.weight.requires_grad  # type: ignore[union-attr]
    ]
    return WEIGHT * torch.stack(terms).sum() if terms else None


@contextmanager
def without_regularisation() -> Iterator[None]:
    """`with without_regularisation(): …` leaves the term out of the losses models give in this thread.

    To train a fusion without it at all, add it with `regularization=False` in its config.
    """
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def regularised(model: nn.Module, output: Any) -> Any:
    """What a model in training mode gives, the term added to its loss if it has one."""
    loss = output.get("loss") if isinstance(output, dict) else _first_scalar(output)
    if loss is None or _left_out.get():
        return output
    term = fusion_regularisation(model)
    if term is None:
        return output
    total = loss + term.to(loss.device, loss.dtype)
    if isinstance(output, dict):
        output["loss"] = total
        return output
    return (total, *output[1:])


def _first_scalar(output: Any) -> Tensor | None:
    """The loss of a plain tuple, which comes first where there is one."""
    first = output[0] if isinstance(output, tuple) and output else None
    return first if isinstance(first, Tensor) and first.dim() == 0 else None
