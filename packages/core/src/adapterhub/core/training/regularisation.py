"""The regularisation of AdapterFusion (Pfeiffer et al., 2021): value matrices are kept near the identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapterhub.core.plan import fusions_in
from adapterhub.core.pool import pool_of

__all__ = ["WEIGHT", "fusion_regularisation"]

#: Factor of the term in the loss.
WEIGHT = 0.01


def fusion_regularisation(model: nn.Module) -> Tensor | None:
    """0.01 · sum of ‖I - W_v‖² over the value matrices that train in the active fusions whose config asks for it.

    Add it to the loss of your own loop; `AdapterTrainer` and `fit` do so themselves. None where there is nothing to add.
    """
    pool = pool_of(model)
    terms = [
        module.penalty()  # type: ignore[operator]
        for block in fusions_in(pool.plan.setup)
        for module in pool.fusion_of(block).modules.values()
        if getattr(module, "regularized", False) and module.value.weight.requires_grad  # type: ignore[union-attr]
    ]
    return WEIGHT * torch.stack(terms).sum() if terms else None
