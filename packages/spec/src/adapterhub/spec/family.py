"""Model families: where in a transformer the sublayer outputs, residuals and norms are, from `spec/families/*.json`.

A family is a table of names, not code. Paths of modules are relative to one layer, those of `layers` and `embedding` to the
bare transformer (without head). What a file claims is verified on the model itself before it is used.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from adapterhub.spec.errors import UnsupportedModelError
from adapterhub.spec.lazy_model import LazyModel

__all__ = ["EmbeddingSpec", "ModelFamily", "ResidualSpec", "SublayerSpec", "TowerSpec", "family_names", "load_family"]

SublayerKind = Literal["attention", "cross_attention", "ffn"]
Placement = Literal["mh_adapter", "output_adapter", "cross_adapter"]
Joint = Literal["stream", "chain", "alone"]

_PLACEMENTS: dict[str, Placement] = {
    "attention": "mh_adapter",
    "cross_attention": "cross_adapter",
    "ffn": "output_adapter",
}


class _Table(LazyModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResidualSpec(_Table):
    """Where the residual can be seen: an argument of the call of a module.

    Args:
        module: path of the module, relative to the layer; empty for the layer itself.
        argument: position among the positional arguments; negative counts from the end.
        keyword: its name where it is passed by name.
    """

    module: str
    argument: int = 0
    keyword: str = "hidden_states"


class SublayerSpec(_Table):
    """One sublayer (h, r, norm): the model computes norm(h + r), or h + r.

    Args:
        output: path of the module whose output is h, after the sublayer's own dropout. Of a tuple, the first item.
        residual: where r can be seen.
        norm: path of the norm applied to h + r (post-LN); None where there is none (pre-LN).
        placement: the switch of a bottleneck config that puts an adapter here; by default the one of the sublayer's kind.
        joint: for parallel blocks, where the sum is h_1 + h_2 + r; says what this sublayer takes for its residual: "stream"
            the r of both, "chain" r + h_1 (of the sublayer before), "alone" none where h + r would be read.
        shared: the module of `output` runs more than once in a layer; meant is its first call after the residual was seen.
        host: path of the module under which `adapters` 1.x keeps the weights; their keys start with it. None: unknown there.
    """

    output: str
    residual: ResidualSpec
    norm: str | None = None
    placement: Placement | None = None
    joint: Joint | None = None
    shared: bool = False
    host: str | None = None

    def switch(self, kind: str) -> Placement:
        """The config field that places a bottleneck at a sublayer of this `kind`."""
        return self.placement or _PLACEMENTS[kind]


class TowerSpec(_Table):
    """A row of like layers: an encoder, a decoder, one tower of a two-tower model.

    Args:
        name: first part of the neutral keys (`encoder.3.ffn…`).
        layers: path of the list of layers; `*` stands for every index of a list on the way. The first that exists is used.
        width: attribute of the model's config (dots go inward) with the size of h.
        sublayers: by kind. A sublayer whose modules are missing in a layer is left out there if it is in `optional`.
        optional: kinds that not every layer or model has.
        linears: linear maps by role (q, k, v, o, gate, up, down, qkv; with prefix `cross_` those of cross-attention); of
            several paths the first that exists is meant.
        attention: path of the modules that call the attention function, by kind (`attention`, `cross_attention`).
        embedding: path of the module that makes this tower's input, from the bare transformer; None where it has none.
        legacy_layers: path of the layers as `adapters` 1.x names it, where it differs.
        legacy_linears: paths of linear maps as `adapters` 1.x names them, where they differ.
        row_arguments: arguments of a layer's call, besides the hidden states, that hold one entry for each row of the batch;
            None where that is not known.
        first_index: index of the first layer in configs; counted on from the towers before where None.
    """

    name: str
    layers: tuple[str, ...] = Field(min_length=1)
    width: str = "hidden_size"
    sublayers: dict[SublayerKind, SublayerSpec]
    optional: tuple[SublayerKind, ...] = ()
    linears: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    attention: dict[str, str] = Field(default_factory=dict)
    embedding: str | None = None
    legacy_layers: str | None = None
    legacy_linears: dict[str, str] = Field(default_factory=dict)
    first_index: int | None = None
    row_arguments: tuple[str, ...] | None = None


class EmbeddingSpec(_Table):
    """Where invertible adapters and prompts act.

    Args:
        module: path, from the bare transformer, of the module whose output is the embedded text.
        tower: the tower it belongs to; its name starts the neutral key (`encoder.embedding…`).
        argument: the embedded text is this argument of the module's call, not its output; None for the output.
        host: path of the module under which `adapters` 1.x keeps invertible adapters (empty: the bare transformer).
        width: attribute of the config with the size of the output; the first that exists counts.
    """

    module: str
    tower: str
    argument: int | None = None
    host: str = ""
    width: tuple[str, ...] = ("embedding_size", "hidden_size")


class ModelFamily(_Table):
    """All of a family.

    Args:
        family: its name, also the file's.
        model_types: `config.model_type` of the models it holds for.
        when: attributes of the config that must have these values, where one model type has several shapes.
        towers: encoder, decoder, and so on, in the order in which layer indices of configs count.
        embedding: the embedding site, or None.
    """

    family: str
    model_types: tuple[str, ...]
    when: dict[str, Any] = Field(default_factory=dict)
    towers: tuple[TowerSpec, ...] = Field(min_length=1)
    embedding: EmbeddingSpec | None = None

    @classmethod
    def from_file(cls, path: str | Path) -> ModelFamily:
        """The family a JSON file describes.

        Raises:
            UnsupportedModelError: no JSON, or not the shape of a family.
        """
        return _parse(Path(path).read_text(encoding="utf-8"), str(path))


def _parse(text: str, where: str) -> ModelFamily:
    try:
        return ModelFamily.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise UnsupportedModelError(f"The family file {where} is not valid: {error}") from None


@cache
def _families() -> dict[str, ModelFamily]:
    folder = resources.files("adapterhub.spec") / "data" / "families"
    found = (_parse(file.read_text("utf-8"), file.name) for file in folder.iterdir() if file.name.endswith(".json"))
    return {family.family: family for family in sorted(found, key=lambda family: family.family)}


def family_names() -> list[str]:
    """The names of all families in the spec, sorted."""
    return list(_families())


def load_family(name: str) -> ModelFamily:
    """The family of this name, or the one for this `model_type` (`roberta` is of the family `bert`).

    Raises:
        UnsupportedModelError: no such family, or several for this `model_type`; `suggestions` lists close names.
    """
    families = _families()
    if name in families:
        return families[name]
    fitting = families_of(name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = [family.family for family in fitting]
        raise UnsupportedModelError(
            f"Models of type {name!r} are of the families {', '.join(names)}, by their config.",
            hint="Name one of them.",
            suggestions=names,
        )
    types = {kind for family in families.values() for kind in family.model_types}
    close = difflib.get_close_matches(name, {*families, *types}, n=3)
    raise UnsupportedModelError(
        f"There is no model family {name!r}.", hint=f"Families: {', '.join(families)}.", suggestions=close
    )


def families_of(model_type: str) -> list[ModelFamily]:
    """The families that name this `config.model_type`, those with more conditions first."""
    fitting = [family for family in _families().values() if model_type in family.model_types]
    return sorted(fitting, key=lambda family: -len(family.when))


__all__ += ["families_of"]
