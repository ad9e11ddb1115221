"""Make the numerics vectors: `python spec/conformance/numerics/generate.py [FOLDER]` (numpy only; seeds are fixed).

Each group is a JSON file with the cases and a safetensors file with their tensors; README.md says how to read them.
Weights and inputs are float32 numbers, results are computed from them in float64 and stored as float32.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import reference as ref
from vectors import HIDDEN, ROWS, SIZE, TOKENS, Group, Numbers, Surroundings

#: Fields of an adapter that has no module at the sublayer of the cases.
ELSEWHERE = {"mh_adapter": True, "output_adapter": False}
PRESETS = Path(__file__).parents[2] / "presets"

#: Fields of a bottleneck config that the equations read, with their defaults (SPEC.md, table "Bottleneck fields").
BOTTLENECK: dict[str, Any] = {
    "method": "bottleneck",
    "non_linearity": "relu",
    "original_ln_before": False,
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "is_parallel": False,
    "scaling": 1,
    "use_gating": False,
    "phm_layer": False,
    "phm_dim": 4,
    "phm_rank": 1,
    "phm_bias": True,
    "factorized_phm_W": True,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "factorized_phm_rule": False,
}


def bottleneck_weights(draw: Numbers, config: Mapping[str, Any]) -> dict[str, ref.Array]:
    """Random weights for a bottleneck config, under neutral leaf names."""
    weights: dict[str, ref.Array] = {}
    if config["phm_layer"]:
        n, rank = config["phm_dim"], config["phm_rank"]
        home = "shared" if config["shared_phm_rule"] else None
        for side, (inputs, outputs) in {"down": (HIDDEN, SIZE), "up": (SIZE, HIDDEN)}.items():
            rule = home or side
            if config["factorized_phm_rule"]:
                weights.setdefault(f"{rule}.rule_left", draw(n, n, 1))
                weights.setdefault(f"{rule}.rule_right", draw(n, 1, n))
            else:
                weights.setdefault(f"{rule}.rule", draw(n, n, n, scale=0.5))
            part = f"shared.{side}" if config["shared_W_phm"] else side
            if config["factorized_phm_W"]:
                weights[f"{part}.left"] = draw(n, inputs // n, rank)
                weights[f"{part}.right"] = draw(n, rank, outputs // n)
            else:
                weights[f"{part}.weight"] = draw(n, inputs // n, outputs // n)
            if config["phm_bias"]:
                weights[f"{side}.bias"] = draw(outputs)
    else:
        weights |= {
            "down.weight": draw(SIZE, HIDDEN, scale=0.5),
            "down.bias": draw(SIZE, scale=0.3),
            "up.weight": draw(HIDDEN, SIZE, scale=0.5),
            "up.bias": draw(HIDDEN, scale=0.3),
        }
    for name, wanted in (("norm_before", config["ln_before"]), ("norm_after", config["ln_after"])):
        if wanted:
            weights |= {f"{name}.weight": draw(HIDDEN, scale=0.3, shift=1), f"{name}.bias": draw(HIDDEN, scale=0.3)}
    if config["use_gating"]:
        weights |= {"gate.weight": draw(1, HIDDEN), "gate.bias": draw(1)}
    if isinstance(config["scaling"], str):
        weights["scaling"] = draw(1 if config["scaling"] == "learned" else HIDDEN, shift=1)
    return weights


def bottleneck() -> Group:
    """Every combination of the switches of Figure 3, then each remaining field, then the presets."""
    group = Group(
        "bottleneck", "Bottleneck adapters at one sublayer: h, r and the model's norm → h' and the sublayer's output"
    )
    draw = Numbers(1)
    place = Surroundings(draw)
    full = {**BOTTLENECK, "ln_before": True, "ln_after": True}
    shared = bottleneck_weights(draw, full)
    switches = {
        "original_ln_before": (False, True),
        "original_ln_after": (True, False),
        "ln_before": (False, True),
        "ln_after": (False, True),
        "residual_before_ln": (True, False, "post_add"),
        "adapter_residual_before_ln": (False, True),
        "is_parallel": (False, True),
    }
    for number, values in enumerate(itertools.product(*switches.values())):
        chosen = dict(zip(switches, values, strict=True))
        weights = {
            key: value
            for key, value in shared.items()
            if not key.startswith("norm_")
            or chosen[{"norm_before": "ln_before", "norm_after": "ln_after"}[key[: key.index(".")]]]
        }
        for kind in ("layer_norm", None):
            _bottleneck_case(group, f"switches-{number:03d}-{'post' if kind else 'pre'}", chosen, weights, place, kind)
    for number, changes in enumerate(_fields()):
        weights = bottleneck_weights(Numbers(100 + number), {**BOTTLENECK, **changes})
        name = "-".join(["field", *(f"{key}={value}" for key, value in changes.items())])
        _bottleneck_case(group, name, changes, weights, place, "layer_norm")
    for preset, config in _presets("bottleneck"):
        changes = {key: value for key, value in config.items() if key in BOTTLENECK}
        weights = bottleneck_weights(Numbers(len(preset) * 7), {**BOTTLENECK, **changes})
        for kind in ("layer_norm", None):
            _bottleneck_case(group, f"preset-{preset}-{'post' if kind else 'pre'}", changes, weights, place, kind)
    for number, changes in enumerate(_mixtures()):
        weights = bottleneck_weights(Numbers(1000 + number), {**BOTTLENECK, **changes})
        kind = None if number % 2 else "layer_norm"
        _bottleneck_case(group, f"mixed-{number:02d}", changes, weights, place, kind)
    return group


def _mixtures(count: int = 64) -> Iterator[dict[str, Any]]:
    """All fields at once, by lot."""
    choices: dict[str, tuple[Any, ...]] = {
        "non_linearity": ("relu", "gelu_new", "swish", "tanh", "leaky_relu", "mish"),
        **dict.fromkeys(("original_ln_before", "original_ln_after", "ln_before", "ln_after"), (False, True)),
        "residual_before_ln": (True, False, "post_add"),
        **dict.fromkeys(("adapter_residual_before_ln", "is_parallel", "use_gating", "phm_layer"), (False, True)),
        "scaling": (1, 0.5, "learned", "channel"),
        "phm_dim": (2, 4),
        **dict.fromkeys(("phm_bias", "factorized_phm_W", "shared_W_phm"), (False, True)),
        **dict.fromkeys(("shared_phm_rule", "factorized_phm_rule"), (False, True)),
    }
    lot = np.random.default_rng(7)
    for _ in range(count):
        drawn = {field: values[lot.integers(len(values))] for field, values in choices.items()}
        yield {field: value for field, value in drawn.items() if drawn["phm_layer"] or "phm" not in field.lower()}


def _fields() -> Iterator[dict[str, Any]]:
    around = {"original_ln_before": True}
    for name in sorted(ref.ACTIVATIONS):
        yield {"non_linearity": name}
    for scaling in (4, 0.25, "learned", "channel"):
        yield {"scaling": scaling}
        yield {"scaling": scaling, "is_parallel": True}
    yield {"use_gating": True}
    yield {"use_gating": True, "is_parallel": True}
    yield {**around, "use_gating": True, "ln_before": True, "scaling": "learned"}
    yield {**around, "use_gating": True, "ln_after": True, "adapter_residual_before_ln": True}
    for rule, weight, own_rule, own_weight, bias, rank in itertools.product(
        (True, False), (True, False), (True, False), (True, False), (True, False), (1, 2)
    ):
        if not weight and rank == 2:
            continue
        yield {
            **around,
            "phm_layer": True,
            "phm_rank": rank,
            "phm_bias": bias,
            "factorized_phm_W": weight,
            "factorized_phm_rule": not rule,
            "shared_phm_rule": own_rule,
            "shared_W_phm": not own_weight,
        }
    yield {"phm_layer": True, "phm_dim": 2}


def _presets(method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, config) of each preset of a method, and of each member of that method in the unions among them."""
    for path in sorted(PRESETS.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        members = document["config"].get("configs", [document["config"]])
        for number, config in enumerate(members):
            if config["method"] == method:
                label = document["name"] if len(members) == 1 else f"{document['name']}-{number}"
                yield label, {key: value for key, value in config.items() if key != "method"}


def _bottleneck_case(
    group: Group,
    name: str,
    changes: Mapping[str, Any],
    weights: Mapping[str, ref.Array],
    place: Surroundings,
    kind: str | None,
) -> None:
    config = {**BOTTLENECK, **changes}
    norm = place.norm(kind)
    adapted = ref.bottleneck(place.h, place.r, norm, weights, config)
    outputs = {"adapted": adapted, "output": ref.sublayer(adapted, place.r, norm, config)}
    given = {"method": "bottleneck", "bottleneck_size": SIZE, **changes}
    group.add(name, given, weights, place.inputs(kind), outputs, **place.extra(kind))


def invertible() -> Group:
    group = Group("invertible", "Invertible adapters on the embedded text, and their inverse")
    for number, (kind, width, act, factor) in enumerate(
        itertools.product(("nice", "glow"), (8, 7), ("relu", "gelu"), (2, 4))
    ):
        draw = Numbers(200 + number)
        half, rest = width // 2, width - width // 2
        sizes = {
            "nice": {"f": (rest, half), "g": (half, rest)},
            "glow": {"s1": (half, 2 * rest), "s2": (rest, 2 * half)},
        }
        weights: dict[str, ref.Array] = {}
        for net, (inputs, outputs) in sizes[kind].items():
            inner = max(1, inputs // factor)
            weights |= {
                f"{net}.down.weight": draw(inner, inputs, scale=0.5),
                f"{net}.down.bias": draw(inner, scale=0.3),
                f"{net}.up.weight": draw(outputs, inner, scale=0.5),
                f"{net}.up.bias": draw(outputs, scale=0.3),
            }
        x = draw(ROWS, TOKENS, width)
        y = (ref.nice if kind == "nice" else ref.glow)(x, weights, act)
        config = {
            "method": "bottleneck",
            "inv_adapter": kind,
            "inv_adapter_reduction_factor": factor,
            "non_linearity": act,
        }
        group.add(f"{kind}-{width}-{act}-{factor}", config, weights, {"x": x}, {"y": y})
    return group


def composition() -> Group:
    """Several adapters at one sublayer."""
    group = Group(
        "composition", "Stack, Average, Split, BatchSplit and Parallel of bottleneck adapters at one sublayer"
    )
    place = Surroundings(Numbers(300))
    kinds: dict[str, dict[str, Any]] = {
        "pfeiffer": {"original_ln_before": True},
        "houlsby": {"non_linearity": "swish"},
        "gated": {"original_ln_before": True, "use_gating": True, "residual_before_ln": False},
    }
    members = {
        name: (bottleneck_weights(Numbers(310 + number), {**BOTTLENECK, **changes}), {**BOTTLENECK, **changes})
        for number, (name, changes) in enumerate(kinds.items())
    }
    configs = {name: {"method": "bottleneck", "bottleneck_size": SIZE, **changes} for name, changes in kinds.items()}
    weights = {f"{name}.{key}": value for name, (own, _) in members.items() for key, value in own.items()}
    first, second, third = (members[name] for name in kinds)
    for kind in ("layer_norm", None):
        norm, h, r = place.norm(kind), place.h, place.r
        one = {name: ref.bottleneck(h, r, norm, *member) for name, member in members.items()}
        blocks: list[tuple[dict[str, Any], ref.Array]] = [
            (_block("Stack", "pfeiffer", "houlsby"), ref.stack(h, r, norm, [first, second])),
            (_block("Stack", "gated", "houlsby", "pfeiffer"), ref.stack(h, r, norm, [third, second, first])),
            (
                _block("Average", "pfeiffer", "houlsby", weights=[1, 3]),
                ref.average(h, r, norm, [first, second], [0.25, 0.75]),
            ),
            (_block("Parallel", "pfeiffer", "houlsby"), np.concatenate([one["pfeiffer"], one["houlsby"]])),
            (
                _block("BatchSplit", "pfeiffer", "houlsby", batch_sizes=[1, 1]),
                np.concatenate([one["pfeiffer"][:1], one["houlsby"][1:]]),
            ),
            (
                _block("Split", "pfeiffer", "houlsby", splits=[2, 1]),
                np.concatenate(
                    [
                        ref.bottleneck(h[:, :2], r[:, :2], norm, *first),
                        ref.bottleneck(h[:, 2:], r[:, 2:], norm, *second),
                    ],
                    axis=1,
                ),
            ),
        ]
        for number, (block, adapted) in enumerate(blocks):
            group.add(
                f"{block['type'].lower()}-{number}-{'post' if kind else 'pre'}",
                configs,
                weights,
                place.inputs(kind),
                {"adapted": adapted},
                composition=block,
                **place.extra(kind),
            )
    _nested(group, place, kinds, members)
    return group


def _nested(
    group: Group,
    place: Surroundings,
    kinds: Mapping[str, Mapping[str, Any]],
    members: Mapping[str, tuple[ref.Weights, ref.Config]],
) -> None:
    """Blocks in blocks, fusions of unlike adapters, adapters without a module here, and who decides what follows."""
    more: dict[str, dict[str, Any]] = {
        "parallel": {"is_parallel": True, "scaling": "learned"},
        "bapna": {
            "original_ln_before": True,
            "original_ln_after": False,
            "ln_before": True,
            "residual_before_ln": False,
        },
        "hyper": {
            "original_ln_before": True,
            "residual_before_ln": "post_add",
            "phm_layer": True,
            "phm_dim": 2,
            "scaling": 2,
        },
    }
    kinds = {**kinds, **more}
    members = {
        **members,
        **{
            name: (bottleneck_weights(Numbers(350 + number), {**BOTTLENECK, **changes}), {**BOTTLENECK, **changes})
            for number, (name, changes) in enumerate(more.items())
        },
    }
    draw = Numbers(360)
    attention = {"query.weight": draw(HIDDEN, HIDDEN, scale=0.4), "query.bias": draw(HIDDEN, scale=0.3)}
    attention |= {"key.weight": draw(HIDDEN, HIDDEN, scale=0.4), "key.bias": draw(HIDDEN, scale=0.3)}
    attention["value.weight"] = draw(HIDDEN, HIDDEN, scale=0.4)
    warm = {**attention, "temperature": np.array(7.5)}
    blocks = [
        (_block("Stack", "pfeiffer", _block("Average", "houlsby", "gated", weights=[1, 1])), {}),
        (_block("Parallel", _block("Stack", "pfeiffer", "houlsby"), "gated"), {}),
        (_block("Stack", "houlsby", _block("Parallel", "hyper", "parallel")), {}),
        (_block("Stack", "houlsby", _block("BatchSplit", "gated", "hyper", batch_sizes=[1, 1])), {}),
        (_block("BatchSplit", _block("Split", "gated", "houlsby", splits=[2, 1]), "parallel", batch_sizes=[1, 1]), {}),
        (_block("Average", "pfeiffer", "parallel", weights=[2, -0.5], normalize_weights=False), {}),
        (_block("Average", "absent", _block("Stack", "houlsby", "hyper"), weights=[1, 3]), {}),
        (_block("Stack", "pfeiffer", "absent"), {}),
        (_block("BatchSplit", "absent", "gated", batch_sizes=[1, 1]), {}),
        (_block("Stack", "pfeiffer", "bapna"), {}),
        (_block("Stack", "bapna", "pfeiffer"), {}),
        (_block("Average", "bapna", "houlsby", weights=[1, 1]), {}),
        (_block("BatchSplit", "bapna", "houlsby", batch_sizes=[1, 1]), {}),
        (_block("Parallel", "houlsby", "bapna", "pfeiffer"), {}),
        (_block("Split", "bapna", "houlsby", splits=[1, 2]), {}),
        (_block("BatchSplit", _block("Split", "houlsby", "bapna", splits=[1, 2]), "bapna", batch_sizes=[1, 1]), {}),
        (_block("Average", "bapna", _block("BatchSplit", "houlsby", "bapna", batch_sizes=[1, 1]), weights=[1, 1]), {}),
        (_block("Fuse", "houlsby", "hyper", "pfeiffer"), attention),
        (_block("Fuse", "pfeiffer", "parallel", "houlsby"), attention),
        (_block("Fuse", "gated", "bapna", "parallel"), attention),
        (_block("Fuse", "houlsby", "gated"), attention),
        (_block("Fuse", "pfeiffer", _block("Stack", "houlsby", "gated")), attention),
        (_block("Fuse", _block("Stack", "pfeiffer", "absent"), "away", "hyper"), attention),
        (_block("Fuse", "houlsby", "pfeiffer"), warm),
        (_block("Fuse", "houlsby", "bapna"), attention),
        (_block("Stack", "gated", _block("Fuse", "houlsby", "pfeiffer")), attention),
        (_block("Average", _block("Fuse", "houlsby", "pfeiffer"), "parallel", weights=[1, 2]), attention),
        (_block("BatchSplit", _block("Fuse", "houlsby", "pfeiffer"), "bapna", batch_sizes=[1, 1]), attention),
    ]  # fmt: skip
    for number, (block, own) in enumerate(blocks):
        config = {"key": True, "query": True, "value": True, "query_before_ln": False, "residual_before": False}
        names = sorted(_names(block))
        weights = {
            f"{name}.{key}": value for name in names if name in members for key, value in members[name][0].items()
        }
        weights |= {f"fusion.{key}": value for key, value in own.items()}
        configs = {
            name: {"method": "bottleneck", "bottleneck_size": SIZE, **kinds.get(name, ELSEWHERE)} for name in names
        }
        more_of_it = {"fusion": {"temperature": "temperature" in own}} if own else {}
        for kind in ("layer_norm", None):
            norm = place.norm(kind)
            adapted, follows = ref.compose(block, place.h, place.r, norm, members, own, config)
            r = np.concatenate([place.r] * (len(adapted) // len(place.r)))
            after = ref.sublayer(adapted, r, norm, {"original_ln_after": True})
            outputs = {"adapted": adapted, "output": after if follows is None else np.where(follows, after, adapted)}
            name = f"nested-{number:02d}-{'post' if kind else 'pre'}"
            extra = {"composition": block, **more_of_it, **place.extra(kind)}
            group.add(name, configs, weights, place.inputs(kind), outputs, **extra)


def _names(block: Any) -> set[str]:
    return {block} if isinstance(block, str) else {name for child in block["children"] for name in _names(child)}


def _block(kind: str, *children: Any, **options: Any) -> dict[str, Any]:
    return {"type": kind, "children": list(children), **options}


def fusion() -> Group:
    group = Group("fusion", "Attention over the outputs of three bottleneck adapters")
    place = Surroundings(Numbers(400))
    number = 0
    for changes in (
        {},
        {"value": False},
        {"key": False},
        {"query": False},
        {"query_before_ln": True},
        {"residual_before": True},
        {"residual_before": True, "query_before_ln": True, "value": False},
    ):
        for adapter in ({"original_ln_before": True}, {"non_linearity": "tanh"}, {"is_parallel": True, "scaling": 4}):
            number += 1
            draw = Numbers(400 + number)
            config = {
                "key": True,
                "query": True,
                "value": True,
                "query_before_ln": False,
                "residual_before": False,
                **changes,
            }
            full = {**BOTTLENECK, **adapter}
            members = [(bottleneck_weights(draw, full), full) for _ in range(3)]
            own: dict[str, ref.Array] = {}
            for name in ("query", "key"):
                if config[name]:
                    own |= {f"{name}.weight": draw(HIDDEN, HIDDEN, scale=0.4), f"{name}.bias": draw(HIDDEN, scale=0.3)}
            if config["value"]:
                own["value.weight"] = draw(HIDDEN, HIDDEN, scale=0.4)
            weights = {f"fusion.{key}": value for key, value in own.items()}
            weights |= {f"{index}.{key}": value for index, (w, _) in enumerate(members) for key, value in w.items()}
            kind = "layer_norm" if number % 2 else None
            adapted, attention = ref.fuse(place.h, place.r, place.norm(kind), [[one] for one in members], own, config)
            group.add(
                f"fusion-{number:02d}",
                changes,
                weights,
                place.inputs(kind),
                {"adapted": adapted, "attention": attention},
                adapter={"method": "bottleneck", "bottleneck_size": SIZE, **adapter},
                **place.extra(kind),
            )
    return group


def linear_maps() -> Group:
    group = Group("linear", "LoRA, DoRA and IA3 at one linear map of 8 → 6 features")
    draw = Numbers(500)
    x, weight, bias = draw(ROWS, TOKENS, HIDDEN), draw(6, HIDDEN, scale=0.5), draw(6)
    options = (
        {},
        {"alpha": 16},
        {"alpha": 16, "use_rslora": True},
        {"use_dora": True, "alpha": 4},
        {"use_dora": True, "use_rslora": True},
        {"use_gating": True, "alpha": 16},
        {"bias": True, "alpha": 16},
        {"bias": True, "use_dora": True},
    )
    chosen = [(f"lora-{number:02d}", changes) for number, changes in enumerate(options)]
    chosen += [(f"preset-{label}", changes) for label, changes in _presets("lora")]
    for (name, changes), with_bias in itertools.product(chosen, (True, False)):
        _lora_case(group, draw, name, changes, x, weight, bias if with_bias else None)
    chosen = [(f"ia3-{number:02d}", changes) for number, changes in enumerate(({}, {"alpha": 2}, {"use_gating": True}))]
    chosen += [(f"preset-{label}", changes) for label, changes in _presets("ia3")]
    for (name, changes), side in itertools.product(chosen, ("output", "input")):
        full = {"alpha": 1, "use_gating": False, **changes}
        own = {"scale": draw(6 if side == "output" else HIDDEN, shift=1)}
        if full["use_gating"]:
            own |= {"gate.weight": draw(1, HIDDEN), "gate.bias": draw(1)}
        y = ref.ia3(x, weight, bias, own, full, side)
        inputs = {"x": x, "weight": weight, "bias": bias}
        group.add(f"{name}-{side}", {"method": "ia3", **changes}, own, inputs, {"y": y}, side=side)
    for number, changes in enumerate(
        (
            {"use_gating": True, "use_dora": True, "alpha": 16},
            {"use_gating": True, "use_rslora": True, "bias": True},
            {"use_gating": True, "use_dora": True, "use_rslora": True, "bias": True},
            {"use_dora": True, "use_rslora": True, "bias": True, "alpha": 3},
        )
    ):
        for with_bias in (True, False):
            _lora_case(group, draw, f"lora-mixed-{number:02d}", changes, x, weight, bias if with_bias else None)
    return group


def _lora_case(
    group: Group,
    draw: Numbers,
    name: str,
    changes: Mapping[str, Any],
    x: ref.Array,
    weight: ref.Array,
    bias: ref.Array | None,
) -> None:
    full = {"alpha": 8, "use_rslora": False, "use_gating": False, "use_dora": False, "bias": False, **changes}
    own = {"a": draw(2, HIDDEN), "b": draw(6, 2)}
    if full["use_dora"]:
        own["magnitude"] = draw(6, shift=2)
    if full["bias"]:
        own["bias"] = draw(6)
    if full["use_gating"]:
        own |= {"gate.weight": draw(1, HIDDEN), "gate.bias": draw(1)}
    y = ref.lora(x, weight, bias, own, full)
    inputs = {"x": x, "weight": weight} | ({"bias": bias} if bias is not None else {})
    title = name if bias is not None else f"{name}-no-bias"
    group.add(title, {"method": "lora", **changes, "r": 2}, own, inputs, {"y": y})


def states() -> Group:
    group = Group("states", "Prefix tuning, prompt tuning and ReFT")
    draw = Numbers(600)
    _prefixes(group, draw)
    _prompts(group, draw)
    _interventions(group, draw)
    return group


def _prefixes(group: Group, draw: Numbers) -> None:
    heads, size, layers, length = 2, 3, 2, 4
    width = heads * size
    x = draw(ROWS, TOKENS, width)
    q, k, v = (draw(ROWS, heads, TOKENS, size) for _ in range(3))
    mask = np.array([[True, True, True], [True, True, False]])
    options = (
        {},
        {"flat": True},
        {"non_linearity": "relu"},
        {"use_gating": True},
        {"use_gating": True, "shared_gating": False},
    )
    chosen = [(f"prefix-{number}", changes) for number, changes in enumerate(options)]
    chosen += [(f"preset-{label}", changes) for label, changes in _presets("prefix")]
    for name, changes in chosen:
        full = {"flat": False, "non_linearity": "tanh", "use_gating": False, "shared_gating": True, **changes}
        count = 2 * layers * width
        own = {"values": draw(length, count)} if full["flat"] else _network_weights(draw, length, width, 5, count)
        inputs = {"q": q, "k": k, "v": v, "mask": mask}
        if full["use_gating"]:
            gates = 1 if full["shared_gating"] else 2
            own |= {"gate.weight": draw(gates, width), "gate.bias": draw(gates)}
            inputs["x"] = x
        made = ref.prefix_states(own, full, heads, layers)
        outputs = {"states": made}
        for layer in range(layers):
            pair = made[2 * layer], made[2 * layer + 1]
            if full["use_gating"]:
                pair = ref.gated_prefix(made, x, own, layer)
            outputs[f"context.{layer}"] = ref.attention_with_prefix(q, k, v, mask, *pair)
        config = {"method": "prefix", **changes, "prefix_length": length, "bottleneck_size": 5}
        group.add(name, config, own, inputs, outputs, heads=heads, layers=layers)


def _network_weights(draw: Numbers, length: int, width: int, inner: int, outputs: int) -> dict[str, ref.Array]:
    return {
        "tokens": draw(length, width),
        "down.weight": draw(inner, width, scale=0.5),
        "down.bias": draw(inner, scale=0.3),
        "up.weight": draw(outputs, inner, scale=0.5),
        "up.bias": draw(outputs, scale=0.3),
    }


def _prompts(group: Group, draw: Numbers) -> None:
    x = draw(ROWS, TOKENS, HIDDEN)
    chosen = [(f"prompt-{combine}", {"combine": combine}) for combine in ("prefix", "prefix_after_bos")]
    chosen += [(f"preset-{label}", changes) for label, changes in _presets("prompt")]
    for name, changes in chosen:
        full = {"combine": "prefix", **changes}
        own = {"tokens": draw(4, HIDDEN)}
        config = {"method": "prompt", **changes, "prompt_length": 4}
        group.add(name, config, own, {"x": x}, {"y": ref.prompt(x, own, full)})


def _interventions(group: Group, draw: Numbers) -> None:
    h = draw(ROWS, 6, HIDDEN)
    seen = np.array([[True] * 6, [False, True, True, True, True, False]])
    options = (
        {"prefix_positions": 2},
        {"prefix_positions": 1, "suffix_positions": 2},
        {"prefix_positions": 2, "suffix_positions": 1, "tied_weights": True},
        {"prefix_positions": 3, "suffix_positions": 3},
        {"prefix_positions": 2, "subtract_projection": False, "orthogonality": False},
        {"prefix_positions": 2, "non_linearity": "relu", "orthogonality": False},
    )
    chosen = [(f"reft-{number}", changes) for number, changes in enumerate(options)]
    chosen += [(f"preset-{label}", changes) for label, changes in _presets("reft")]
    for name, changes in chosen:
        full = {
            "prefix_positions": 3,
            "suffix_positions": 0,
            "orthogonality": True,
            "subtract_projection": True,
            "tied_weights": False,
            "non_linearity": None,
            **changes,
        }
        own: dict[str, ref.Array] = {}
        for unit in ("prefix", "suffix"):
            if full[f"{unit}_positions"] and not (unit == "suffix" and full["tied_weights"]):
                rows = np.linalg.qr(draw(HIDDEN, 2))[0].T if full["orthogonality"] else draw(2, HIDDEN)
                own |= {
                    f"{unit}.projection": rows.astype(np.float32).astype(np.float64),
                    f"{unit}.source.weight": draw(2, HIDDEN),
                    f"{unit}.source.bias": draw(2),
                }
        config = {"method": "reft", "dropout": 0, **changes, "r": 2}
        group.add(name, config, own, {"h": h, "mask": seen}, {"h": ref.reft(h, seen, own, full)})


GROUPS = (bottleneck, invertible, composition, fusion, linear_maps, states)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    for make in GROUPS:
        group = make()
        group.write(folder)
        print(f"{group.name}: {len(group.cases)} cases, {len(group.tensors)} tensors")


if __name__ == "__main__":
    main()
