"""Parametrised hypercomplex multiplication, the linear map of Compacter (Karimi Mahabadi et al., 2021, arXiv:2106.04647).

    y = x H + b,   H = sum_i rule_i ⊗ W_i   [in, out],   W_i = left_i right_i

with n = `phm_dim` small matrices rule_i [n, n] (often shared by all layers) and W_i [in/n, out/n] of rank `phm_rank`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapterhub.core.kept import kept
from adapterhub.core.methods.parameters import Draw, Source, normal, uniform, xavier_normal, xavier_uniform, zeros
from adapterhub.core.slim import Slim
from adapterhub.spec.config import BottleneckConfig
from adapterhub.spec.errors import InvalidConfigError

__all__ = ["PHMLinear", "SharedPHM"]

_WEIGHTS: dict[str, Draw] = {"glorot-uniform": xavier_uniform, "glorot-normal": xavier_normal}


def _rule_parameters(module: nn.Module, config: BottleneckConfig, source: Source, draw: Draw) -> None:
    n = config.phm_dim
    if config.factorized_phm_rule:
        module.rule_left = source("rule_left", (n, n, 1), draw)
        module.rule_right = source("rule_right", (n, 1, n), draw)
    else:
        module.rule = source("rule", (n, n, n), draw)
    if not config.learn_phm:
        module.fixed_leaves = frozenset(module._parameters)  # type: ignore[assignment]
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _weight_parameters(module: nn.Module, config: BottleneckConfig, source: Source, inputs: int, outputs: int) -> None:
    n, draw = config.phm_dim, _WEIGHTS.get(config.hypercomplex_nonlinearity) or normal(float(config.phm_init_range))
    if config.factorized_phm_W:
        module.left = source("left", (n, inputs // n, config.phm_rank), draw)
        module.right = source("right", (n, config.phm_rank, outputs // n), draw)
    else:
        module.weight = source("weight", (n, inputs // n, outputs // n), draw)


def _product(module: nn.Module, whole: str, left: str, right: str) -> Tensor:
    parameters = module._parameters
    if whole in parameters:
        found = parameters[whole]
        assert found is not None
        return found
    one, other = parameters[left], parameters[right]
    assert one is not None and other is not None
    return torch.bmm(one, other)


class SharedPHM(Slim):
    """What all PHM maps of one adapter share: the rule, and with `shared_W_phm` also the weights of each direction."""

    def __init__(self, config: BottleneckConfig, width: int, size: int, source: Source) -> None:
        super().__init__()
        if config.shared_phm_rule:
            spread = float(config.phm_init_range)
            draw = normal(spread) if config.phm_c_init == "normal" else uniform(1.0)
            _rule_parameters(self, config, source, draw)
        if config.shared_W_phm:
            self.down, self.up = nn.Module(), nn.Module()
            _weight_parameters(self.down, config, source.within("down."), width, size)
            _weight_parameters(self.up, config, source.within("up."), size, width)


class PHMLinear(Slim):
    """One map `inputs` → `outputs`.

    Args:
        shared: the adapter's `SharedPHM`, asked for what this map has not of its own.
        direction: "down" or "up", the part of the shared weights that is meant.
    """

    #: where the shared parts are; None for this map itself
    _rule_home: nn.Module | None
    _weight_home: nn.Module | None

    def __init__(
        self, inputs: int, outputs: int, config: BottleneckConfig, source: Source, shared: SharedPHM, direction: str
    ) -> None:
        super().__init__()
        n = config.phm_dim
        if inputs % n or outputs % n:
            raise InvalidConfigError(
                f"PHM layers of {inputs} x {outputs} cannot be cut into phm_dim={n} parts.",
                hint="Choose a reduction factor for which hidden size and bottleneck size divide by phm_dim.",
            )
        if not config.shared_phm_rule:
            _rule_parameters(self, config, source, normal(0.01) if config.phm_c_init == "normal" else uniform(0.01))
        if not config.shared_W_phm:
            _weight_parameters(self, config, source, inputs, outputs)
        self.bias = source("bias", (outputs,), zeros) if config.phm_bias else None
        # not registered: the shared part has its own place, and is reached through its module even if it is moved
        object.__setattr__(self, "_rule_home", shared if config.shared_phm_rule else None)
        object.__setattr__(self, "_weight_home", getattr(shared, direction) if config.shared_W_phm else None)

    def matrix(self) -> Tensor:
        """H [in, out]. Without gradients it is computed once and kept until one of its parts changes."""
        return kept(self, self._matrix, *[home for home in (self._rule_home, self._weight_home) if home is not None])

    def _matrix(self) -> Tensor:
        rule = _product(self._rule_home or self, "rule", "rule_left", "rule_right")
        weight = _product(self._weight_home or self, "weight", "left", "right")
        n, inner, outer = weight.shape
        return torch.einsum("iab,icd->acbd", rule, weight).reshape(n * inner, n * outer)

    def forward(self, value: Tensor) -> Tensor:
        matrix = self.matrix()
        return value @ matrix if self.bias is None else value @ matrix + self.bias
