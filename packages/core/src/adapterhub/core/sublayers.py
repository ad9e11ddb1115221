"""One bottleneck at one sublayer, as an operation: the usual make runs straight from its tables of parameters.

What is computed on the way and read by nobody else is written over: activations, sums, and without gradients the normed value.
Large tensors are not slow to compute but slow to allocate, since the system has to hand out and clear every page of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapterhub.core.methods.bottleneck import Bottleneck
from adapterhub.core.operations import Operation

__all__ = ["LARGE", "AtSublayer", "added", "normed", "rewritable"]

#: elements from which on a tensor is written over with `out=` rather than allocated anew
LARGE = 1 << 16


class AtSublayer(Operation):
    """One bottleneck at a sublayer. `alone`: h + r is not read there, only h (parallel bottlenecks still read r)."""

    def __init__(self, module: nn.Module, norm: nn.Module | None, *, alone: bool = False) -> None:
        assert isinstance(module, Bottleneck)
        self.module, self.norm = module, norm
        self.alone = alone and not module.parallel
        self.replaces_norm = not module.norm_last
        self.takes_sum = module.takes_sum and not alone
        self.needs_residual = module.needs_residual or (self.replaces_norm and norm is None)
        #: the usual kind runs straight from these tables of parameters, without a look-up of attributes of modules
        self.straight = module.plain and not module.depth_dropout and not module.skip_inside
        self.down, self.up = module.down._parameters, module.up._parameters
        self.act, self.scaling = module.act, module.scaling
        if module.act is torch.relu:
            self.act = torch.relu_
        self.dropout = module.dropout
        self.parallel, self.norm_first, self.skip_from = module.parallel, module.norm_first, module.skip_from

    def __call__(self, value: Tensor, beside: Tensor | None) -> Tensor:
        if not self.straight or torch.compiler.is_compiling():
            return self.module.forward(value, None if self.alone else beside, self.norm)
        read = skip = value
        own = False
        if self.parallel:
            assert beside is not None
            read = beside
        else:
            if self.norm_first:
                if beside is not None and not self.alone:
                    read = value + beside
                if self.skip_from == "post_add":
                    skip = read
                if self.norm is not None:
                    read, own = normed(read, self.norm)
            if self.skip_from is False:
                skip, own = read, False
        change = self.change(read, own)
        if change.dim() == skip.dim():
            return added(skip, change, value.dtype)
        return added(skip.reshape(change.shape), change, value.dtype).view(value.shape)

    def change(self, read: Tensor, own: bool) -> Tensor:
        """scaling · (W_up act(W_down x + b_down) + b_up) of x [..., d], as [..., d] or [all rows, d].

        Args:
            own: whether `read` is nobody else's, so that it may be written over.
        """
        down, up = self.down, self.up
        weight, bias, last, last_bias = down["weight"], down["bias"], up["weight"], up["bias"]
        assert weight is not None and bias is not None and last is not None and last_bias is not None
        if read.dtype != weight.dtype and not torch.is_autocast_enabled(read.device.type):
            read = read.to(weight.dtype)
        if torch.is_grad_enabled():
            # rows and tokens in one, as `linear` does inside: what is written over must be no view of what autograd sees
            inner = self.act(torch.addmm(bias, read.reshape(-1, weight.shape[1]), weight.t()))
            result = torch.addmm(last_bias, inner, last.t())
        else:
            inner = self.act(F.linear(read, weight, bias))
            if own and read.numel() >= LARGE and rewritable(read):
                flat = read.view(-1, read.shape[-1])
                torch.addmm(last_bias, inner.view(-1, inner.shape[-1]), last.t(), out=flat)
                result = read
            else:
                result = F.linear(inner, last, last_bias)
        if self.scaling != 1.0:
            result = result * self.scaling
        if self.dropout and self.module.training:
            result = F.dropout(result, self.dropout)
        return result


def normed(value: Tensor, norm: nn.Module) -> tuple[Tensor, bool]:
    """norm(value), past the module where it is a plain LayerNorm; and whether it is certain to be a tensor of its own."""
    if type(norm) is not nn.LayerNorm or "forward" in norm.__dict__:
        return norm.forward(value), False
    tables = norm._parameters
    return torch.layer_norm(value, norm.normalized_shape, tables["weight"], tables["bias"], norm.eps, False), True


def rewritable(value: Tensor) -> bool:
    """Whether a tensor that is nobody else's may be given as `out=`: there are no gradients of any kind, and no autocast that
    wants another type."""
    return (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled(value.device.type)
        and value.is_contiguous()
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def added(skip: Tensor, change: Tensor, dtype: torch.dtype) -> Tensor:
    """skip + change as `dtype`, in the room of `change` where it has that type; `change` is nobody else's."""
    if change.dtype == skip.dtype == dtype:
        return change.add_(skip)
    return (skip + change).to(dtype)
