"""Vectors of valid and invalid documents: adapter, composition, fusion and head configs (SPEC.md chapters 2, 4, 5, 6).

What is valid and where a problem lies is written by hand below; only expanded forms and ids are computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from writing import CONFORMANCE, numbered, write

from adapterhub.spec import parse_config
from adapterhub.spec.composition import parse_composition
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.fusion import parse_fusion
from adapterhub.spec.heads import parse_head

B: dict[str, Any] = {"method": "bottleneck"}

#: (why, config)
VALID = [
    ("all defaults", B),
    ("every switch of Figure 3", {**B, "mh_adapter": True, "cross_adapter": True, "original_ln_before": True, "original_ln_after": False, "ln_before": True, "ln_after": True, "residual_before_ln": False, "adapter_residual_before_ln": True}),
    ("the residual after the sum", {**B, "original_ln_before": True, "residual_before_ln": "post_add"}),
    ("whole numbers written as fractions", {**B, "reduction_factor": 2.0, "scaling": 4.0, "leave_out": [1.0]}),
    ("a fractional factor", {**B, "reduction_factor": 0.5}),
    ("a factor for each layer", {**B, "reduction_factor": {"default": 16, "0": 2, "11": 2.5}}),
    ("a size instead of a factor", {**B, "bottleneck_size": 64}),
    ("a size and no factor", {**B, "bottleneck_size": 64, "reduction_factor": None}),
    ("only an invertible block", {**B, "output_adapter": False, "inv_adapter": "nice"}),
    ("an invertible block with its factor", {**B, "inv_adapter": "glow", "inv_adapter_reduction_factor": 4}),
    ("parallel, scaled, gated", {**B, "is_parallel": True, "scaling": "learned", "use_gating": True}),
    ("a scale for each channel", {**B, "scaling": "channel"}),
    ("layers in any order, repeated", {**B, "leave_out": [3, 1, 3]}),
    ("a seed below zero", {**B, "init_weights_seed": -1}),
    ("hypercomplex layers", {**B, "phm_layer": True, "phm_dim": 2, "phm_rank": 2, "factorized_phm_rule": True, "learn_phm": False}),
    ("dropout and stochastic depth", {**B, "dropout": 0.1, "stochastic_depth": 0.25}),
    ("LoRA with all defaults", {"method": "lora"}),
    ("LoRA on every linear map of a block", {"method": "lora", "attn_matrices": ["q", "k", "v", "o"], "intermediate_lora": True, "output_lora": True, "r": 4, "alpha": 0.5}),
    ("DoRA, rank-stabilised", {"method": "lora", "use_dora": True, "use_rslora": True}),
    ("LoRA by names, ranks and scales by pattern", {"method": "lora", "targets": ["q_proj", "mlp.down_proj"], "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 2.5}}),
    ("IA3 as in the paper", {"method": "ia3", "ffn": "down_input"}),
    ("IA3 on keys alone", {"method": "ia3", "ffn": None, "attn_matrices": ["k"]}),
    ("prefix tuning without the network", {"method": "prefix", "flat": True, "prefix_length": 5}),
    ("prompt tuning from words", {"method": "prompt", "prompt_init": "from_string", "prompt_init_text": "Is this good?"}),
    ("prompt behind the first token", {"method": "prompt", "combine": "prefix_after_bos"}),
    ("prompt among the words", {"method": "prompt", "combine": "prefix_words"}),
    ("prefix that takes the first positions", {"method": "prefix", "positions": True}),
    ("LoReFT", {"method": "reft"}),
    ("DiReFT on some layers, last positions", {"method": "reft", "orthogonality": False, "subtract_projection": False, "layers": [2, 0], "prefix_positions": 0, "suffix_positions": 2}),
    ("a union", {"method": "union", "configs": [{"method": "prefix"}, {**B, "is_parallel": True}]}),
    ("a union of bottlenecks at different places", {"method": "union", "configs": [{**B, "mh_adapter": True, "output_adapter": False}, B]}),
]  # fmt: skip

#: (why, config, pointers of the problems, whether the JSON Schema alone finds it)
INVALID = [
    ("an unknown method", {"method": "adapter"}, [""], True),
    ("an unknown field", {**B, "reduction": 16}, ["/reduction"], True),
    ("two unknown fields and a wrong value", {**B, "a": 1, "b": 2, "dropout": 2}, ["/a", "/b", "/dropout"], True),
    ("placed nowhere", {**B, "output_adapter": False}, [""], True),
    ("a factor and a size", {**B, "reduction_factor": 16, "bottleneck_size": 48}, [""], True),
    ("neither factor nor size", {**B, "reduction_factor": None}, [""], True),
    ("a factor of zero", {**B, "reduction_factor": 0}, ["/reduction_factor"], True),
    ("a negative factor", {**B, "reduction_factor": -16}, ["/reduction_factor"], True),
    ("a boolean for a number", {**B, "reduction_factor": True}, ["/reduction_factor"], True),
    ("a text for a number", {**B, "reduction_factor": "16"}, ["/reduction_factor"], True),
    ("a number for a boolean", {**B, "mh_adapter": 1}, ["/mh_adapter"], True),
    ("a text for a boolean", {**B, "ln_after": "false"}, ["/ln_after"], True),
    ("null for a boolean", {**B, "is_parallel": None}, ["/is_parallel"], True),
    ("a layer that is no index", {**B, "reduction_factor": {"first": 2}}, ["/reduction_factor"], True),
    ("a negative layer", {**B, "leave_out": [-1]}, ["/leave_out/0"], True),
    ("a fractional layer", {**B, "leave_out": [0.5]}, ["/leave_out"], True),
    ("a non-linearity that is no name", {**B, "non_linearity": "os.system"}, ["/non_linearity"], True),
    ("a residual from nowhere", {**B, "residual_before_ln": "later"}, ["/residual_before_ln"], True),
    ("an unknown scaling", {**B, "scaling": "auto"}, ["/scaling"], True),
    ("dropout of one", {**B, "dropout": 1}, ["/dropout"], True),
    ("an unknown initialisation", {**B, "init_weights": "zeros"}, ["/init_weights"], True),
    ("an initialisation PHM layers do not have", {**B, "phm_layer": True, "init_weights": "mam_adapter"}, [""], True),
    ("an unknown invertible block", {**B, "inv_adapter": "maf"}, ["/inv_adapter"], True),
    ("rank zero", {"method": "lora", "r": 0}, ["/r"], True),
    ("a fractional rank", {"method": "lora", "r": 1.5}, ["/r"], True),
    ("an unknown matrix", {"method": "lora", "attn_matrices": ["q", "x"]}, ["/attn_matrices/1"], True),
    ("a field of another method", {"method": "lora", "reduction_factor": 16}, ["/reduction_factor"], True),
    ("an unknown place", {"method": "ia3", "ffn": "both"}, ["/ffn"], True),
    ("no prefix", {"method": "prefix", "prefix_length": 0}, ["/prefix_length"], True),
    ("words without their text", {"method": "prompt", "prompt_init": "from_string"}, [""], True),
    ("a text that is not used", {"method": "prompt", "prompt_init_text": "x"}, [""], True),
    ("no position", {"method": "reft", "prefix_positions": 0}, [""], True),
    ("an unknown set of layers", {"method": "reft", "layers": "some"}, ["/layers"], True),
    ("an empty union", {"method": "union", "configs": []}, ["/configs"], True),
    ("a union in a union", {"method": "union", "configs": [{"method": "union", "configs": [B]}]}, ["/configs/0"], True),
    ("a problem in a member", {"method": "union", "configs": [B, {"method": "lora", "r": -1}]}, ["/configs/1/r"], True),
    ("two members at the same place", {"method": "union", "configs": [B, B]}, [""], False),
    ("a layer with a leading zero", {**B, "reduction_factor": {"05": 2, "default": 4}}, ["/reduction_factor"], True),
    ("two invertible blocks", {"method": "union", "configs": [{**B, "inv_adapter": "nice"}, {**B, "inv_adapter": "glow", "output_adapter": False, "mh_adapter": True}]}, [""], False),
]  # fmt: skip

COMPOSITIONS = [
    ("nothing", None),
    ("one adapter", "a"),
    ("a stack", {"type": "Stack", "children": ["a", "b", "a"]}),
    ("a language below a fusion", {"type": "Stack", "children": ["en", {"type": "Fuse", "children": ["a", "b"]}]}),
    ("a named fusion over stacks", {"type": "Fuse", "children": ["a", {"type": "Stack", "children": ["b", "c"]}], "name": "mine"}),
    ("a split", {"type": "Split", "children": ["a", "b"], "splits": [3, 5]}),
    ("a batch split of everything", {"type": "BatchSplit", "children": ["a", {"type": "Stack", "children": ["b", "c"]}, {"type": "Average", "children": ["a", "b"], "weights": [1, 3]}], "batch_sizes": [1, 2, 1]}),
    ("parallel on top", {"type": "Stack", "children": ["a", {"type": "Parallel", "children": ["b", "c"]}]}),
    ("weights as they are", {"type": "Average", "children": ["a", "b"], "weights": [0.5, -0.25], "normalize_weights": False}),
    ("a whole number written as a float", {"type": "Split", "children": ["a", "b"], "splits": [3.0, 5]}),
]  # fmt: skip

#: (why, composition, whether the JSON Schema alone finds it)
WRONG_COMPOSITIONS = [
    ("a number", 3, True),
    ("an unknown block", {"type": "Mix", "children": ["a"]}, True),
    ("no children", {"type": "Stack", "children": []}, True),
    ("an empty name", {"type": "Stack", "children": [""]}, True),
    ("a fusion in a fusion", {"type": "Fuse", "children": [{"type": "Fuse", "children": ["a", "b"]}]}, True),
    ("parallel in a fusion", {"type": "Fuse", "children": [{"type": "Parallel", "children": ["a", "b"]}]}, True),
    ("parallel in a split", {"type": "Split", "children": [{"type": "Parallel", "children": ["a"]}], "splits": [1]}, True),
    ("parallel in a stack in an average", {"type": "Average", "children": [{"type": "Stack", "children": [{"type": "Parallel", "children": ["a", "b"]}]}, "c"]}, False),
    ("two parallels in a stack", {"type": "Stack", "children": [{"type": "Parallel", "children": ["a", "b"]}, {"type": "Parallel", "children": ["c", "d"]}]}, False),
    ("a block in a stack in a fusion", {"type": "Fuse", "children": [{"type": "Stack", "children": ["a", {"type": "Average", "children": ["b", "c"]}]}]}, False),
    ("a split without sizes", {"type": "Split", "children": ["a", "b"]}, True),
    ("sizes for other children", {"type": "Split", "children": ["a", "b"], "splits": [1, 2, 3]}, False),
    ("a negative size", {"type": "BatchSplit", "children": ["a", "b"], "batch_sizes": [-1, 2]}, True),
    ("weights for other children", {"type": "Average", "children": ["a", "b"], "weights": [1]}, False),
    ("weights that cancel", {"type": "Average", "children": ["a", "b"], "weights": [1, -1]}, False),
    ("a member too many", {"type": "Stack", "children": ["a"], "weights": [1]}, True),
    ("a fusion with an empty name", {"type": "Fuse", "children": ["a", "b"], "name": ""}, True),
]  # fmt: skip

FUSIONS = [
    ("dynamic", {}),
    ("static", {"value": False, "regularization": False, "value_initialized": False}),
    ("everything else", {"key": False, "query": True, "query_before_ln": True, "residual_before": True, "temperature": True, "dropout_prob": 0.1}),
]  # fmt: skip
WRONG_FUSIONS = [
    ("an unknown field", {"keys": True}, ["/keys"]),
    ("a number for a boolean", {"temperature": 50}, ["/temperature"]),
    ("dropout above one", {"dropout_prob": 1.5}, ["/dropout_prob"]),
]
HEADS = [
    ("a classifier", {"head_type": "classification", "num_labels": 3, "layers": 2, "activation_function": "tanh"}),
    ("named labels", {"head_type": "tagging", "num_labels": 2, "label2id": {"O": 0, "B-PER": 1}}),
    ("a head of a task class", {"head_type": "static", "model_class": "BertForSequenceClassification", "num_labels": 2}),
    ("a language model's head", {"head_type": "causal_lm", "vocab_size": 100, "embedding_size": 8, "layer_norm": True, "shift_labels": True}),
]  # fmt: skip
WRONG_HEADS = [
    ("an unknown kind", {"head_type": "oracle"}, ["/head_type"], True),
    ("a static head of no class", {"head_type": "static"}, [""], True),
    ("labels that are counted wrong", {"head_type": "classification", "num_labels": 3, "label2id": {"a": 0}}, [""], False),
    ("labels with a gap", {"head_type": "classification", "label2id": {"a": 0, "b": 2}}, [""], False),
    ("no layers", {"head_type": "classification", "layers": 0}, ["/layers"], True),
    ("an unknown field", {"head_type": "classification", "labels": 2}, ["/labels"], True),
]  # fmt: skip


def config_documents() -> dict[str, Any]:
    return {
        "about": "valid: expanded and config_id are SPEC.md 9.2, 9.3. invalid: pointers of the problems a validator must "
        "tell, at least; schema: whether the JSON Schema alone finds it.",
        "valid": numbered("config", [_valid(why, config, parse_config) for why, config in VALID]),
        "invalid": numbered(
            "no-config",
            [
                {"why": why, "config": config, "pointers": _checked(parse_config, config, pointers), "schema": schema}
                for why, config, pointers, schema in INVALID
            ],
        ),
    }


def other_documents() -> dict[str, Any]:
    return {
        "about": "compositions, fusion configs and head configs: valid ones (expanded where they have defaults), and "
        "invalid ones with the pointers of their problems; schema: whether the JSON Schema alone finds it.",
        "compositions": numbered("composition", [_composition(why, document) for why, document in COMPOSITIONS]),
        "invalid_compositions": numbered(
            "no-composition",
            [
                {"why": why, "config": document, "schema": _refused(parse_composition, document) and schema}
                for why, document, schema in WRONG_COMPOSITIONS
            ],
        ),
        "fusions": numbered("fusion", [_valid(why, config, parse_fusion) for why, config in FUSIONS]),
        "invalid_fusions": numbered(
            "no-fusion",
            [
                {"why": why, "config": config, "pointers": _checked(parse_fusion, config, pointers), "schema": True}
                for why, config, pointers in WRONG_FUSIONS
            ],
        ),
        "heads": numbered("head", [_valid(why, config, parse_head) for why, config in HEADS]),
        "invalid_heads": numbered(
            "no-head",
            [
                {"why": why, "config": config, "pointers": _checked(parse_head, config, pointers), "schema": schema}
                for why, config, pointers, schema in WRONG_HEADS
            ],
        ),
    }


def _valid(why: str, config: Any, parse: Callable[[Any], Any]) -> dict[str, Any]:
    parsed = parse(config)
    return {"why": why, "config": config, "expanded": parsed.expand(), "config_id": parsed.config_id}


def _composition(why: str, document: Any) -> dict[str, Any]:
    block = parse_composition(document)
    return {"why": why, "config": document, "names": [] if block is None else block.names()}


def _refused(parse: Callable[[Any], Any], document: Any) -> bool:
    try:
        parse(document)
    except InvalidConfigError:
        return True
    raise AssertionError(f"accepted: {document}")


def _checked(parse: Callable[[Any], Any], config: Any, pointers: list[str]) -> list[str]:
    """`pointers`, once it is sure that ours are among the problems told."""
    try:
        parse(config)
    except InvalidConfigError as error:
        found = {problem["pointer"].rstrip("/") for problem in error.details["problems"]}
        assert set(pointers) <= found, (config, found, pointers)
        return pointers
    raise AssertionError(f"accepted: {config}")


def main(folder: Path = CONFORMANCE) -> None:
    write(folder, "configs/adapters.json", config_documents())
    write(folder, "configs/others.json", other_documents())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
