"""PEFT's prompts and prefixes: prompt tuning, p-tuning and prefix tuning, read and written.

They keep one tensor, `prompt_embeddings`. A prompt [P, d] stands among the word embeddings; of p-tuning only what its network
made is kept. A prefix [P, 2 L k] is given to the model as a cache, so that the text's positions go on behind it; in models of
two towers only the decoder's self-attention is given one, cut from the tensor as if it held two for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapterhub.core.formats.checkpoint import AdapterCheckpoint
from adapterhub.core.pool import Pool
from adapterhub.core.sites.attention import AttentionSite
from adapterhub.spec.config import AdapterConfig, PrefixTuningConfig, PromptTuningConfig, parse_config
from adapterhub.spec.errors import CheckpointError, InvalidConfigError

__all__ = ["KINDS", "TENSOR", "read_prompt", "write_prefix", "write_prompt"]

KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
TENSOR = "prompt_embeddings"


def read_prompt(document: Mapping[str, Any], embeddings: Tensor, pool: Pool) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """The config and the neutral tensors of a checkpoint of one of `KINDS`.

    Raises:
        CheckpointError: a tensor of another shape than its config and this model have.
    """
    length = document.get("num_virtual_tokens")
    if not isinstance(length, int) or embeddings.dim() != 2 or embeddings.shape[0] < length:
        raise CheckpointError(f"{TENSOR} {tuple(embeddings.shape)} does not hold {length!r} virtual tokens.")
    if document["peft_type"] == "PREFIX_TUNING":
        return _read_prefix(embeddings, length, pool)
    behind = _has_embeddings_module(pool)
    config = parse_config(
        {"method": "prompt", "prompt_length": length, "combine": "prefix_words" if behind else "prefix"}
    )
    site = pool.prompt_site(behind)
    if embeddings.shape[1] != site.width:
        raise CheckpointError(
            f"The prompt is {embeddings.shape[1]} wide, the word embeddings of this model {site.width}."
        )
    return config, {f"{site.key}.tokens": embeddings[:length].clone()}


def _read_prefix(embeddings: Tensor, length: int, pool: Pool) -> tuple[AdapterConfig, dict[str, Tensor]]:
    sites = _prefixed(pool)
    two_towers = len({layer.tower for layer in pool.layout.layers}) > 1
    size = sites[0].heads * sites[0].size
    total = 2 * len(sites) * size
    if embeddings.shape[1] != total:
        raise CheckpointError(
            f"The prefix has {embeddings.shape[1]} numbers a token; {len(sites)} attentions of this model need {total}."
        )
    values = embeddings
    if two_towers:  # each layer takes the first two of the next four, round and round
        pairs = embeddings.view(embeddings.shape[0], len(sites), 2 * size)
        values = pairs[:, [2 * index % len(sites) for index in range(len(sites))]].flatten(1)
    config = parse_config(
        {
            "method": "prefix",
            "prefix_length": length,
            "flat": True,
            "positions": True,
            "encoder_prefix": not two_towers,
            "cross_prefix": False,
        }
    )
    return config, {f"shared.{sites[0].place.tower}_attention.values": values.clone()}


def write_prompt(
    config: PromptTuningConfig, checkpoint: AdapterCheckpoint, pool: Pool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of a prompt.

    Raises:
        InvalidConfigError: a prompt that PEFT would put elsewhere.
    """
    if config.combine != ("prefix_words" if _has_embeddings_module(pool) else "prefix"):
        raise InvalidConfigError(
            f"PEFT puts prompts in front of the word embeddings; combine={config.combine!r} does not on this model.",
            hint='Use format="native" or format="adapters".',
        )
    (tokens,) = checkpoint.tensors.values()
    if (
        len({layer.tower for layer in pool.layout.layers}) > 1
    ):  # it keeps as many for the decoder, and uses none of them
        tokens = torch.cat((tokens, torch.zeros_like(tokens)))
    return {"peft_type": "PROMPT_TUNING", **_sizes(config.prompt_length, tokens.shape[1], pool)}, {TENSOR: tokens}


def write_prefix(
    config: PrefixTuningConfig, checkpoint: AdapterCheckpoint, pool: Pool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of a prefix; a network that makes it is not kept, only what it makes.

    Raises:
        InvalidConfigError: a prefix that PEFT cannot have.
    """
    from adapterhub.core.methods.activations import activation

    sites = _prefixed(pool)
    tower = sites[0].place.tower
    own = {key.removeprefix(f"shared.{tower}_attention."): tensor for key, tensor in checkpoint.tensors.items()}
    if not config.positions or config.use_gating or config.leave_out or not set(own) <= {"values", *_NETWORK}:
        raise InvalidConfigError(
            "PEFT has prefixes with positions=True in every self-attention of the last tower only, without gates.",
            hint='Use format="native" or format="adapters".',
        )
    if config.flat:
        values = own["values"]
    else:
        inner = activation(config.non_linearity)(own["tokens"] @ own["down.weight"].T + own["down.bias"])
        values = inner @ own["up.weight"].T + own["up.bias"]
    if len({layer.tower for layer in pool.layout.layers}) > 1:
        values = _for_two_towers(values, len(sites))
    fields = _sizes(config.prefix_length, sites[0].heads * sites[0].size, pool)
    fields |= {"num_layers": len(sites), "num_attention_heads": sites[0].heads}
    return {"peft_type": "PREFIX_TUNING", "prefix_projection": False, **fields}, {TENSOR: values}


_NETWORK = ("tokens", "down.weight", "down.bias", "up.weight", "up.bias")


def _for_two_towers(values: Tensor, layers: int) -> Tensor:
    """What PEFT cuts into these values.

    Raises:
        InvalidConfigError: with an even number of layers it gives the second half of them the prefixes of the first.
    """
    pairs = values.view(values.shape[0], layers, -1)
    found = torch.zeros_like(pairs)
    for index in range(layers):
        found[:, 2 * index % layers] = pairs[:, index]
    again = found[:, [2 * index % layers for index in range(layers)]]
    if not torch.equal(again, pairs):
        raise InvalidConfigError(
            f"PEFT cannot have a prefix of its own in each of {layers} decoder layers.", hint='Use format="native".'
        )
    return found.flatten(1)


def _sizes(length: int, width: int, pool: Pool) -> dict[str, Any]:
    towers = len({layer.tower for layer in pool.layout.layers})
    return {"num_virtual_tokens": length, "token_dim": width, "num_transformer_submodules": towers}


def _prefixed(pool: Pool) -> list[AttentionSite]:
    """The self-attentions PEFT gives a prefix."""
    tower = pool.layout.layers[-1].tower
    sites = [site for site in pool.attention_sites() if site.kind == "attention" and site.place.tower == tower]
    if not sites:
        raise CheckpointError("Prefix tuning finds no attention in this model's family file.")
    return sites


def _has_embeddings_module(pool: Pool) -> bool:
    place = pool.layout.embedding
    return place is not None and place.path.endswith("embeddings")
