"""Several adapters into one: weighted mean, TIES, DARE and, for low-rank updates, the SVD of the summed product.

Everything here is a pure function over state dicts of equal keys and shapes; `average_adapter` on the model gathers them.

- linear: sum of w_i x_i.
- ties: trim each to its largest entries, elect a sign per entry, mean of the agreeing ones (Yadav et al., 2023).
- dare: drop entries at random, rescale the rest by 1 / density, then the weighted sum (Yu et al., 2024).
- svd: for LoRA, the best rank-r factors of sum of w_i s_i B_i A_i (Eckart & Young, 1936), rather than of A and B apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adapterhub.spec.errors import InvalidConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["COMBINATIONS", "average_adapter", "combine", "dare", "linear", "low_rank_svd", "normalised", "ties"]


def normalised(weights: Sequence[float] | None, count: int, normalize: bool = True) -> list[float]:
    """`count` weights: equal where None, divided by their sum where `normalize`.

    Raises:
        InvalidConfigError: the wrong number of weights, or weights that sum to zero.
    """
    if weights is None:
        return [1.0 / count if normalize else 1.0] * count
    if len(weights) != count:
        raise InvalidConfigError(f"{count} adapters need {count} weights, not {len(weights)}.")
    if not normalize:
        return [float(weight) for weight in weights]
    total = float(sum(weights))
    if total == 0:
        raise InvalidConfigError("Weights that sum to zero cannot be normalised.", hint="Pass normalize_weights=False.")
    return [float(weight) / total for weight in weights]


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum of w_i x_i, accumulated in float32 or wider and returned in the dtype of the first."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    total = torch.zeros_like(tensors[0], dtype=wide)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.to(wide), alpha=weight)
    return total.to(tensors[0].dtype)


def ties(tensors: Sequence[Tensor], weights: Sequence[float], *, density: float = 0.2) -> Tensor:
    """TIES of tensors that are differences from one base (adapter weights are: their base is no adapter).

    Args:
        density: share of entries of largest magnitude that each tensor keeps, in (0, 1].
    """
    _check_density(density)
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    stack = torch.stack(
        [_trim(tensor.to(wide), density) * weight for tensor, weight in zip(tensors, weights, strict=True)]
    )
    sign = torch.sign(stack.sum(dim=0))
    agrees = (torch.sign(stack) == sign) & (stack != 0)
    share = torch.tensor(list(weights), dtype=wide, device=stack.device).view(-1, *[1] * tensors[0].ndim)
    mass = (agrees * share).sum(dim=0)
    merged = (stack * agrees).sum(dim=0) / torch.where(mass == 0, torch.ones_like(mass), mass)
    return merged.to(tensors[0].dtype)


def dare(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    *,
    density: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DARE: each entry is kept with probability `density` and divided by it, so that the expectation stays the same."""
    _check_density(density)
    generator = generator or torch.Generator().manual_seed(0)
    kept = []
    for tensor in tensors:
        mask = torch.rand(tensor.shape, generator=generator).to(tensor.device) < density
        kept.append(tensor * mask / density)
    return linear(kept, weights)


def low_rank_svd(
    downs: Sequence[Tensor], ups: Sequence[Tensor], scales: Sequence[float], rank: int, target_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Best rank-`rank` factors of sum of s_i B_i A_i.

    Args:
        downs: A_i, each [r_i, in].
        ups: B_i, each [out, r_i].
        scales: s_i: weight times the scaling of that adapter.
        target_scale: scaling the result will be used with.

    Returns:
        A [rank, in] and B [out, rank] with target_scale * B @ A closest to the sum; the singular values are split evenly.
    """
    wide = torch.promote_types(downs[0].dtype, torch.float32)
    a = torch.cat([down.to(wide) for down in downs])
    b = torch.cat([up.to(wide) * (scale / target_scale) for up, scale in zip(ups, scales, strict=True)], dim=1)
    # the sum is b @ a with an inner size of sum(r_i): two thin QR and a small SVD instead of one of [out, in]
    q_out, r_out = torch.linalg.qr(b)
    q_in, r_in = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    root = s[:rank].sqrt()
    down = (q_in @ v[:rank].T * root).T
    up = q_out @ (u[:, :rank] * root)
    short = rank - down.shape[0]
    if short > 0:
        down = torch.cat([down, down.new_zeros(short, down.shape[1])])
        up = torch.cat([up, up.new_zeros(up.shape[0], short)], dim=1)
    return down.to(downs[0].dtype).contiguous(), up.to(ups[0].dtype).contiguous()


def combine(
    states: Sequence[Mapping[str, Tensor]], function: Callable[..., Tensor], weights: Sequence[float], **options: object
) -> dict[str, Tensor]:
    """`function(tensors, weights, **options)` for every key.

    Raises:
        InvalidConfigError: the states differ in keys or shapes; the message names the first difference.
    """
    first = states[0]
    for number, other in enumerate(states[1:], start=2):
        if different := set(first) ^ set(other):
            raise InvalidConfigError(
                f"Adapter 1 and adapter {number} do not have the same tensors, for instance {sorted(different)[0]!r}.",
                hint="Only adapters of one architecture can be averaged.",
            )
        for key in first:
            if first[key].shape != other[key].shape:
                raise InvalidConfigError(
                    f"{key!r} has shape {tuple(first[key].shape)} in adapter 1 and {tuple(other[key].shape)} in adapter {number}."
                )
    return {key: function([state[key] for state in states], weights, **options) for key in first}


#: Names `average_adapter(combine_strategy=…)` takes.
COMBINATIONS: dict[str, Callable[..., Tensor]] = {"linear": linear, "ties": ties, "dare": dare}


def average_adapter(
    model: nn.Module,
    adapter_name: str,
    adapter_list: Sequence[str] | Mapping[str, float],
    weights: Sequence[float] | None = None,
    *,
    combine_strategy: str = "linear",
    normalize_weights: bool = True,
    set_active: bool = False,
    overwrite_ok: bool = False,
    svd_rank: int | None = None,
    average_head: bool = False,
    **options: Any,
) -> None:
    """Adds an adapter made from others of one architecture.

    Args:
        adapter_name: name of the new one.
        adapter_list: the adapters; as a mapping, with their weights.
        weights: one number each; equal ones by default.
        combine_strategy: `linear`, `ties`, `dare`, or `svd` (LoRA only).
        normalize_weights: whether the weights are divided by their sum.
        svd_rank: rank of the result of `svd`; that of the first adapter by default.
        average_head: whether a head is made from the adapters' heads, with the same weights (always linear).
        options: `density` for `ties` and `dare`, `generator` for `dare`.

    Raises:
        AdapterNotFoundError: an adapter that is not there.
        InvalidConfigError: adapters of different architectures, an unknown strategy, weights that make no sense.
    """
    from adapterhub.core.heads.attached import heads_of
    from adapterhub.core.pool import pool_of

    pool = pool_of(model)
    if isinstance(adapter_list, Mapping):
        if weights is not None:
            raise InvalidConfigError("The weights are given twice: as values of the mapping, and as weights=.")
        names, weights = list(adapter_list), list(adapter_list.values())
    else:
        names = list(adapter_list)
    if not names:
        raise InvalidConfigError("There is nothing to average.", hint="Name at least one adapter.")
    adapters = [pool.get(name) for name in names]
    _check_alike([adapter.config for adapter in adapters], names, combine_strategy)
    shares = normalised(weights, len(names), normalize_weights)
    states = [adapter.values() for adapter in adapters]
    config = adapters[0].config
    if combine_strategy == "svd":
        config, state = _svd(adapters, states, shares, svd_rank)
    elif combine_strategy in COMBINATIONS:
        state = combine(states, COMBINATIONS[combine_strategy], shares, **options)
    else:
        raise InvalidConfigError(
            f"There is no combine_strategy {combine_strategy!r}.",
            hint=f"Strategies: {', '.join([*COMBINATIONS, 'svd'])}.",
        )
    heads = heads_of(model)
    head = None
    if average_head:
        saved = [heads.save(name) for name in names]
        absent = [name for name, found in zip(names, saved, strict=True) if found is None]
        if absent:
            raise InvalidConfigError(f"There is no head of {', '.join(map(repr, absent))} to average.")
        head = saved[0]
        assert head is not None
        head.tensors = combine([found.tensors for found in saved if found is not None], linear, shares)
    pool.add(adapter_name, config, type=adapters[0].type, tensors=state, overwrite=overwrite_ok)
    if head is not None:
        heads.load(adapter_name, head)
    if set_active:
        model.set_active_adapters(adapter_name)  # type: ignore[operator]


#: Fields in which averaged adapters may differ: they act in training or initialisation only.
_MAY_DIFFER = frozenset(
    {"dropout", "stochastic_depth", "init_weights", "init_weights_seed", "phm_init_range", "phm_c_init"}
)


def _check_alike(configs: Sequence[Any], names: Sequence[str], strategy: str) -> None:
    free = _MAY_DIFFER | ({"r", "alpha", "rank_pattern", "alpha_pattern", "use_rslora"} if strategy == "svd" else set())
    first = {key: value for key, value in configs[0].expand().items() if key not in free}
    for name, config in zip(names[1:], configs[1:], strict=True):
        other = {key: value for key, value in config.expand().items() if key not in free}
        different = [key for key in first.keys() | other.keys() if first.get(key) != other.get(key)]
        if different:
            raise InvalidConfigError(
                f"{names[0]!r} and {name!r} differ in {', '.join(sorted(different))}: only adapters of one architecture can "
                "be averaged."
            )


def _svd(
    adapters: Sequence[Any], states: Sequence[Mapping[str, Tensor]], shares: Sequence[float], rank: int | None
) -> tuple[Any, dict[str, Tensor]]:
    """Config and tensors of the truncated SVD of the weighted sum of LoRA updates, site by site."""
    config = adapters[0].config
    if config.method != "lora" or config.use_dora or config.use_gating or config.composition_mode != "add":
        raise InvalidConfigError(
            "The strategy svd combines plain LoRA adapters only.", hint="Use linear, ties or dare."
        )
    rank = rank or config.r
    config = config.replace(r=rank, alpha=rank, rank_pattern={}, alpha_pattern={}, use_rslora=False)
    state: dict[str, Tensor] = {}
    for key, module in adapters[0].modules.items():
        parts = [adapter.modules[key] for adapter in adapters]
        down, up = low_rank_svd(
            [found[f"{key}.a"] for found in states],
            [found[f"{key}.b"] for found in states],
            [share * float(part.scale) for share, part in zip(shares, parts, strict=True)],
            rank,
        )
        state[f"{key}.a"], state[f"{key}.b"] = down, up
        if set(dict(module.named_parameters())) - {"a", "b"}:
            raise InvalidConfigError(f"{key} has more than A and B; svd cannot combine it.")
    return config, state


def _trim(tensor: Tensor, density: float) -> Tensor:
    keep = max(1, round(density * tensor.numel()))
    if keep >= tensor.numel():
        return tensor
    threshold = tensor.abs().flatten().kthvalue(tensor.numel() - keep + 1).values
    return torch.where(tensor.abs() >= threshold, tensor, torch.zeros_like(tensor))


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise InvalidConfigError(f"density is a share in (0, 1], not {density}.")
