"""Roles of linear maps by the names models give them, for families no file describes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

__all__ = ["attention_of", "linears_of"]

#: last part (or last two parts) of a module's path → role
_ROLES: dict[str, str] = {
    **dict.fromkeys(("q_proj", "query", "q_lin", "query_proj", "wq", "to_q", "q", "linear_q", "q_b_proj"), "q"),
    **dict.fromkeys(("k_proj", "key", "k_lin", "key_proj", "wk", "to_k", "k", "linear_k"), "k"),
    **dict.fromkeys(("v_proj", "value", "v_lin", "value_proj", "wv", "to_v", "v", "linear_v"), "v"),
    **dict.fromkeys(("o_proj", "out_proj", "out_lin", "wo_attn", "to_out", "o", "linear_out", "projection"), "o"),
    **dict.fromkeys(("qkv", "Wqkv", "c_attn", "qkv_proj", "in_proj"), "qkv"),
    "query_key_value": "qkv_by_head",  # GPT-NeoX, BLOOM, Falcon, Persimmon
    **dict.fromkeys(("gate_proj", "wi_0", "w1"), "gate"),
    **dict.fromkeys(
        (
            "up_proj",
            "fc1",
            "c_fc",
            "fc_in",
            "dense_h_to_4h",
            "lin1",
            "wi",
            "wi_1",
            "w3",
            "Wi",
            "linear1",
            "intermediate_dense",
        ),
        "up",
    ),
    **dict.fromkeys(
        ("down_proj", "fc2", "fc_out", "dense_4h_to_h", "lin2", "w2", "Wo", "linear2", "output_dense"), "down"
    ),
    "intermediate.dense": "up",
    "output.dense": "down",
    "attention.output.dense": "o",
    "crossattention.output.dense": "o",
    "attention.dense": "o",
    "attn.c_proj": "o",
    "mlp.c_proj": "down",
    "gate_up_proj": "gate_up",
}
#: attention classes whose fused map lies in no order the roles know
_SHUFFLED = frozenset({"CodeGenAttention"})
#: attention classes whose fused map holds q, k and v head by head, whatever it is called
_BY_HEAD = frozenset({"GPTBigCodeAttention"})
_CROSS = ("cross", "encoder_attn", "EncDec")


def linears_of(layer: nn.Module, runs: Callable[[str], bool] = lambda path: True) -> dict[str, str]:
    """Role → path of the linear maps in a layer, as far as names tell; the first of a kind that `runs` counts: some layers hold
    maps whose weights they read without calling them, where no hook would act."""
    found = _by_role(layer, runs)
    fused = found.get("qkv", "")
    owner = type(layer.get_submodule(fused.rpartition(".")[0])).__name__
    if owner in _BY_HEAD:
        found["qkv_by_head"] = found.pop("qkv")
    if owner in _SHUFFLED:
        del found["qkv"]
    return found


def _by_role(layer: nn.Module, runs: Callable[[str], bool] = lambda path: True) -> dict[str, str]:
    found: dict[str, str] = {}
    for path, module in layer.named_modules():
        if not hasattr(module, "weight") or getattr(module.weight, "dim", lambda: 0)() != 2 or "adapterhub_" in path:
            continue
        if not runs(path):
            continue
        parts = path.split(".")
        role = next((_ROLES[name] for n in (3, 2, 1) if (name := ".".join(parts[-n:])) in _ROLES), None)
        if role is None or (role == "qkv" and "att" not in path.lower()):  # Mamba's in_proj is no attention
            continue
        if any(word in path for word in _CROSS) and role in ("q", "k", "v", "o", "qkv", "qkv_by_head"):
            role = f"cross_{role}"
        found.setdefault(role, path)
    return found


def attention_of(layer: nn.Module) -> dict[str, str]:
    """Kind → path of the innermost modules that hold the attention's linear maps."""
    found: dict[str, str] = {}
    linears = _by_role(layer)
    for kind, roles in (("attention", ("q", "qkv", "qkv_by_head")), ("cross_attention", ("cross_q", "cross_qkv"))):
        path = next((linears[role] for role in roles if role in linears), None)
        if path is not None and "." in path:
            found[kind] = path.rsplit(".", 1)[0]
    return found
