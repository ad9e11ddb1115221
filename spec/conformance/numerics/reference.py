"""The forward equations of every adapter method in plain numpy: slow, short, and independent of any implementation.

All arrays are float64. Shapes: B rows, T tokens, d features, b bottleneck features, N adapters, P prefix positions.
The text of the equations is in SPEC.md, chapter "Adapter configs"; this file is what made the vectors beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]
Config = Mapping[str, Any]
Members = Mapping[str, tuple[Weights, Config]]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int = -1) -> Array:
    shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def _gelu(x: Array) -> Array:
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "leakyrelu": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "linear": lambda x: x,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * sigmoid(x),
    "swish": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "gelu": _gelu,
    "gelu_orig": _gelu,
    "gelu_python": _gelu,
    "gelu_10": lambda x: np.clip(_gelu(x), -10, 10),
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "laplace": lambda x: 0.5 * (1 + _erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
}


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    """Ba et al., 2016, over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * weight + bias


def linear(x: Array, weights: Weights, name: str) -> Array:
    """x [..., in] → W x + b [..., out]; W is stored as [out, in]."""
    result = x @ weights[f"{name}.weight"].T
    return result + weights[f"{name}.bias"] if f"{name}.bias" in weights else result


class Norm:
    """A norm of the model: weights and epsilon, or the identity where the model is pre-LN."""

    def __init__(self, weight: Array, bias: Array, epsilon: float) -> None:
        self.weight, self.bias, self.epsilon = weight, bias, epsilon

    def __call__(self, x: Array) -> Array:
        return layer_norm(x, self.weight, self.bias, self.epsilon)


# --- bottleneck adapters -------------------------------------------------------------------------------------------------


def phm_matrix(weights: Weights, name: str, config: Config) -> Array:
    """H = Σ_i rule_i ⊗ W_i, [in, out]. What is shared is found under its own name, without the prefix of the layer."""

    def find(leaf: str, shared: bool, shared_name: str) -> Array:
        return weights[shared_name if shared else f"{name}.{leaf}"]

    rule_shared, weight_shared = config["shared_phm_rule"], config["shared_W_phm"]
    if config["factorized_phm_rule"]:
        left = find("rule_left", rule_shared, "shared.rule_left")
        rule = left @ find("rule_right", rule_shared, "shared.rule_right")
    else:
        rule = find("rule", rule_shared, "shared.rule")
    if config["factorized_phm_W"]:
        left = find("left", weight_shared, f"shared.{name}.left")
        parts = left @ find("right", weight_shared, f"shared.{name}.right")
    else:
        parts = find("weight", weight_shared, f"shared.{name}.weight")
    return np.sum([np.kron(rule[i], parts[i]) for i in range(len(rule))], axis=0)


def up(x: Array, weights: Weights, config: Config) -> Array:
    """scaling · (W_up act(W_down n(x) + b_down) + b_up): [..., d] → [..., d]."""
    if config["ln_before"]:
        x = layer_norm(x, weights["norm_before.weight"], weights["norm_before.bias"])
    act = ACTIVATIONS[config["non_linearity"]]
    if config["phm_layer"]:
        inner = act(x @ phm_matrix(weights, "down", config) + weights.get("down.bias", 0))
        result = inner @ phm_matrix(weights, "up", config) + weights.get("up.bias", 0)
    else:
        result = linear(act(linear(x, weights, "down")), weights, "up")
    scaling = config["scaling"]
    return result * (weights["scaling"] if isinstance(scaling, str) else scaling)


def gate(x: Array, weights: Weights, name: str = "gate") -> Array:
    """mean over tokens of sigmoid(W x + b): [B, T, d] → [B, 1, 1]."""
    return sigmoid(linear(x, weights, name)).mean(axis=-2, keepdims=True)


def enter(h: Array, r: Array, norm: Norm | None, config: Config) -> tuple[Array, Array]:
    """(x, s): what the adapter reads and what is added to its output."""
    if config["is_parallel"]:
        return r, h
    if not config["original_ln_before"]:
        return h, h
    summed = h + r
    x = norm(summed) if norm is not None else summed
    skip = {True: h, False: x, "post_add": summed}[config["residual_before_ln"]]
    return x, skip


def leave(z: Array, x: Array, s: Array, weights: Weights, config: Config) -> Array:
    """h' from z = up(x): gate, skip connection and norm of the adapter's own."""
    if config["use_gating"]:
        z = z * gate(x, weights)
    inside = config["adapter_residual_before_ln"] and not config["is_parallel"]
    if inside:
        z = z + s
    if config["ln_after"]:
        z = layer_norm(z, weights["norm_after.weight"], weights["norm_after.bias"])
    return z if inside else z + s


def bottleneck(h: Array, r: Array, norm: Norm | None, weights: Weights, config: Config) -> Array:
    """h' [B, T, d] of one bottleneck adapter."""
    x, s = enter(h, r, norm, config)
    return leave(up(x, weights, config), x, s, weights, config)


def sublayer(adapted: Array, r: Array, norm: Norm | None, config: Config) -> Array:
    """What the model goes on with: norm(h' + r), or h' alone without `original_ln_after`."""
    if not config["original_ln_after"]:
        return adapted
    return norm(adapted + r) if norm is not None else adapted + r


def nice(x: Array, weights: Weights, non_linearity: str) -> Array:
    """Additive coupling (Dinh et al., 2015): y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1)."""
    half = x.shape[-1] // 2
    one, two = x[..., :half], x[..., half:]
    one = one + _network(two, weights, "f", non_linearity)
    two = two + _network(one, weights, "g", non_linearity)
    return np.concatenate([one, two], axis=-1)


def nice_inverse(y: Array, weights: Weights, non_linearity: str) -> Array:
    """x_2 = y_2 - G(y_1), x_1 = y_1 - F(x_2)."""
    half = y.shape[-1] // 2
    one, two = y[..., :half], y[..., half:]
    two = two - _network(one, weights, "g", non_linearity)
    one = one - _network(two, weights, "f", non_linearity)
    return np.concatenate([one, two], axis=-1)


def glow(x: Array, weights: Weights, non_linearity: str) -> Array:
    """Affine coupling (Kingma & Dhariwal, 2018) with e(s) = exp(0.636 · 5 · atan(s / 5)) for scales."""
    half = x.shape[-1] // 2
    one, two = x[..., :half], x[..., half:]
    scale, shift = np.split(_network(two, weights, "s2", non_linearity), [half], axis=-1)
    one = _soft(scale) * one + shift
    scale, shift = np.split(_network(one, weights, "s1", non_linearity), [x.shape[-1] - half], axis=-1)
    two = _soft(scale) * two + shift
    return np.concatenate([one, two], axis=-1)


def _soft(s: Array) -> Array:
    return np.exp(0.636 * 5 * np.arctan(s / 5))


def _network(x: Array, weights: Weights, name: str, non_linearity: str) -> Array:
    return linear(ACTIVATIONS[non_linearity](linear(x, weights, f"{name}.down")), weights, f"{name}.up")


# --- composition at one site ---------------------------------------------------------------------------------------------


def stack(h: Array, r: Array, norm: Norm | None, members: Sequence[tuple[Weights, Config]]) -> Array:
    """h' of adapters one after the other: each gets the h' of the one before, and the same r."""
    for weights, config in members:
        h = bottleneck(h, r, norm, weights, config)
    return h


def average(
    h: Array, r: Array, norm: Norm | None, members: Sequence[tuple[Weights, Config]], shares: Sequence[float]
) -> Array:
    """Σ share_i · h'_i with shares that add up to 1."""
    return np.sum(
        [
            share * bottleneck(h, r, norm, weights, config)
            for (weights, config), share in zip(members, shares, strict=True)
        ],
        axis=0,
    )


def fuse(
    h: Array,
    r: Array,
    norm: Norm | None,
    children: Sequence[Sequence[tuple[Weights, Config]]],
    fusion: Weights,
    config: Config,
) -> tuple[Array, Array]:
    """(h' [B, T, d], p [B, T, N]): attention over the adapters' outputs (Pfeiffer et al., 2021).

    Each child is a stack of adapters, of one or more. The last adapter of the last child decides what is read and added:
    (x, s) are its own; with a parallel one s = r, and h is added at last.
    """
    last = children[-1][-1][1]
    x, s = enter(h, r, norm, last)
    if last["is_parallel"]:
        s = r
    query = h if config["query_before_ln"] and not last["is_parallel"] else x
    outputs = []
    for *before, (weights, own) in children:
        read = enter(stack(h, r, norm, before), r, norm, own)[0] if before else x
        outputs.append(up(read, weights, own))
    u = np.stack(outputs, axis=-2)
    if config["residual_before"]:
        u = u + s[..., None, :]
    q = linear(query, fusion, "query") if config["query"] else query
    k = linear(u, fusion, "key") if config["key"] else u
    v = u @ fusion["value.weight"].T if config["value"] else u
    p = softmax((q[..., None, :] * k).sum(axis=-1) / fusion.get("temperature", 1.0))
    mixed = (p[..., None] * v).sum(axis=-2)
    mixed = mixed if config["residual_before"] else mixed + s
    return (h + mixed if last["is_parallel"] else mixed), p


#: h' [B, T, d], and where the model's norm(h' + r) follows [B, T, 1]; None for the latter where nothing has a module
Composed = tuple[Array, NDArray[np.bool_] | None]


def compose(
    block: Any, h: Array, r: Array, norm: Norm | None, members: Members, fusion: Weights, config: Config
) -> Composed:
    """A composition at one sublayer. Names that are not among the members have no module there and hand on their input."""
    if isinstance(block, str):
        if block not in members:
            return h, None
        weights, own = members[block]
        return bottleneck(h, r, norm, weights, own), np.full((*h.shape[:2], 1), own["original_ln_after"])
    kind, children = block["type"], block["children"]

    def run(child: Any, h: Array, r: Array) -> Composed:
        return compose(child, h, r, norm, members, fusion, config)

    if kind == "Stack":
        follows = None
        for child in children:
            h, own_follows = run(child, h, r)
            follows = follows if own_follows is None else own_follows
        return h, follows
    if kind == "Average":
        total = 1.0 if block.get("normalize_weights") is False else sum(block["weights"])
        parts = [run(child, h, r) for child in children]
        mean = np.sum(
            [weight / total * part for weight, (part, _) in zip(block["weights"], parts, strict=True)], axis=0
        )
        return mean, [follows for _, follows in parts if follows is not None][-1]
    if kind == "Fuse":
        names = [[child] if isinstance(child, str) else child["children"] for child in children]
        there = [[members[name] for name in child if name in members] for child in names]
        there = [child for child in there if child]
        adapted = fuse(h, r, norm, there, fusion, config)[0]
        return adapted, np.full((*h.shape[:2], 1), there[-1][-1][1]["original_ln_after"])
    if kind == "Parallel":
        return _joined([run(child, h, r) for child in children], axis=0)
    axis, sizes = (0, block["batch_sizes"]) if kind == "BatchSplit" else (1, block["splits"])
    cuts = np.cumsum(sizes)[:-1]
    stretches = zip(children, np.split(h, cuts, axis), np.split(r, cuts, axis), strict=True)
    return _joined([run(child, part, beside) for child, part, beside in stretches], axis)


def _joined(parts: Sequence[Composed], axis: int) -> Composed:
    follows = [np.ones((*part.shape[:2], 1), bool) if own is None else own for part, own in parts]
    return np.concatenate([part for part, _ in parts], axis), np.concatenate(follows, axis)


# --- linear layers ---------------------------------------------------------------------------------------------------------


def lora(x: Array, weight: Array, bias: Array | None, adapter: Weights, config: Config) -> Array:
    """W x + b + s B A x with s = alpha / r or alpha / √r (`use_rslora`); gated, g(x) stands for s.

    DoRA (Liu et al., 2024): m ⊙ (W x + s B A x) / ‖W + s B A‖ (norm of each row), + b, gated with s = 1 in the norm. With
    `bias` a trained offset is added.
    """
    rank = adapter["a"].shape[0]
    factor = 1.0 if config["use_gating"] else config["alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
    opened: Any = gate(x, adapter) if config["use_gating"] else factor
    result = x @ weight.T + (x @ adapter["a"].T @ adapter["b"].T) * opened
    if config["use_dora"]:
        merged = weight + factor * adapter["b"] @ adapter["a"]
        result = result * (adapter["magnitude"] / np.sqrt((merged**2).sum(axis=1)))
    if config["bias"]:
        result = result + adapter["bias"]
    return result if bias is None else result + bias


def ia3(x: Array, weight: Array, bias: Array | None, adapter: Weights, config: Config, side: str) -> Array:
    """`output`: l ⊙ (W x + b); `input`: W (l ⊙ x) + b. l is scaled by alpha, or by the gate of x."""
    scale = adapter["scale"] * (gate(x, adapter) if config["use_gating"] else config["alpha"])
    shift = 0 if bias is None else bias
    return (x * scale) @ weight.T + shift if side == "input" else (x @ weight.T + shift) * scale


# --- prefixes, prompts, interventions --------------------------------------------------------------------------------------


def prefix_states(weights: Weights, config: Config, heads: int, layers: int) -> Array:
    """The trained keys and values of one kind of attention, [2 L, heads, P, size]; layer i has 2 i and 2 i + 1."""
    if config["flat"]:
        values = weights["values"]
    else:
        values = linear(ACTIVATIONS[config["non_linearity"]](linear(weights["tokens"], weights, "down")), weights, "up")
    return values.reshape(len(values), 2 * layers, heads, -1).transpose(1, 2, 0, 3)


def gated_prefix(states: Array, x: Array, weights: Weights, layer: int) -> tuple[Array, Array]:
    """Keys and values of one layer, times the gate of each row: [B, heads, P, size] each. Mao et al., 2022."""
    opened = sigmoid(linear(x, weights, "gate")).mean(axis=1)  # [B, 1], or [B, 2]: one for keys, one for values
    keys, values = opened[:, 0], opened[:, -1]
    return (
        keys[:, None, None, None] * states[2 * layer],
        values[:, None, None, None] * states[2 * layer + 1],
    )


def attention_with_prefix(
    q: Array, k: Array, v: Array, mask: NDArray[np.bool_], prefix_k: Array, prefix_v: Array
) -> Array:
    """Attention over [prefix, text]: q, k, v [B, heads, T, hd], mask [B, T] (True: a token).

    The prefix is [heads, P, hd], or [B, heads, P, hd] where it differs by row.
    """
    rows, _, _, size = k.shape
    k = np.concatenate([np.broadcast_to(prefix_k, (rows, *prefix_k.shape[-3:])), k], axis=2)
    v = np.concatenate([np.broadcast_to(prefix_v, (rows, *prefix_v.shape[-3:])), v], axis=2)
    seen = np.concatenate([np.ones((rows, prefix_k.shape[-2]), bool), mask], axis=1)
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(size)
    return softmax(np.where(seen[:, None, None, :], scores, -np.inf)) @ v


def prompt(x: Array, weights: Weights, config: Config) -> Array:
    """[B, T, d] → [B, P + T, d]: the prompt before the text, or behind its first token."""
    rows = np.broadcast_to(weights["tokens"], (len(x), *weights["tokens"].shape))
    if config["combine"] == "prefix_after_bos":
        return np.concatenate([x[:, :1], rows, x[:, 1:]], axis=1)
    return np.concatenate([rows, x], axis=1)


def reft(h: Array, mask: NDArray[np.bool_], weights: Weights, config: Config) -> Array:
    """h + Rᵀ(act(W h + b) − R h) at the first and last positions of each row's tokens (Wu et al., 2024).

    Unit `prefix` acts on the first `prefix_positions` tokens, unit `suffix` on the last `suffix_positions` of the others.
    """
    result = h.copy()
    act = ACTIVATIONS[config["non_linearity"] or "linear"]
    for row, seen in enumerate(mask):
        tokens = np.flatnonzero(seen)
        chosen = {"prefix": tokens[: config["prefix_positions"]]}
        first = max(config["prefix_positions"], len(tokens) - config["suffix_positions"])
        chosen["suffix"] = tokens[first:] if config["suffix_positions"] else tokens[:0]
        for unit, positions in chosen.items():
            own = "prefix" if config["tied_weights"] else unit
            for position in positions:
                state = result[row, position]
                source = act(weights[f"{own}.source.weight"] @ state + weights[f"{own}.source.bias"])
                projection = weights[f"{own}.projection"]
                change = source - projection @ state if config["subtract_projection"] else source
                result[row, position] = state + projection.T @ change
    return result
