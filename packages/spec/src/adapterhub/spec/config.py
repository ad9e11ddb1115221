"""Adapter configs: what is put where in the frozen transformer, as one tagged union over `method`.

Equations, shapes and defaults are in SPEC.md, chapter "Adapter configs". A config is immutable; its identity is
`config_id`, the sha256 of the canonical JSON (RFC 8785) of the expanded config, so that every language computes the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from adapterhub.spec.canonical import canonical_json, digest_of
from adapterhub.spec.errors import InvalidConfigError
from adapterhub.spec.lazy_model import LazyModel

__all__ = [
    "ACTIVATIONS",
    "SPEC_VERSION",
    "AdapterConfig",
    "BottleneckConfig",
    "IA3Config",
    "LoRAConfig",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "ReftConfig",
    "UnionConfig",
    "parse_config",
]

SPEC_VERSION = "1.0"

#: Names a `non_linearity` may have; `leakyrelu` and `gelu_orig` are spellings of older checkpoints.
ACTIVATIONS = frozenset(
    [
        "gelu",
        "gelu_10",
        "gelu_accurate",
        "gelu_fast",
        "gelu_new",
        "gelu_orig",
        "gelu_python",
        "gelu_python_tanh",
        "gelu_pytorch_tanh",
        "laplace",
        "leaky_relu",
        "leakyrelu",
        "linear",
        "mish",
        "quick_gelu",
        "relu",
        "relu2",
        "relu6",
        "sigmoid",
        "silu",
        "swish",
        "tanh",
    ]
)


#: A key of a `reduction_factor` by layer: one text for each layer, so that equal configs have equal ids.
_LAYER_KEY = re.compile(r"default|0|[1-9][0-9]*")


def _number(value: Any) -> Any:
    """Numbers only (no booleans, no strings), finite, and whole ones as int: 2.0 and 2 are one value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a number is needed here, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return int(value) if float(value).is_integer() else value


def _whole(value: Any) -> Any:
    value = _number(value)
    if not isinstance(value, int):
        raise ValueError(f"a whole number is needed here, not {value}")
    return value


def _activation(value: Any) -> Any:
    if not isinstance(value, str) or value.lower() not in ACTIVATIONS:
        raise ValueError(f"{value!r} is no known non-linearity; known: {', '.join(sorted(ACTIVATIONS))}")
    return value.lower()


def _layers(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(sorted({_whole(item) for item in value}))
    return value


Number = Annotated[int | float, BeforeValidator(_number)]
Positive = Annotated[int | float, BeforeValidator(_number), Field(gt=0)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Probability = Annotated[int | float, BeforeValidator(_number), Field(ge=0, lt=1)]
Activation = Annotated[str, BeforeValidator(_activation)]
Layers = Annotated[tuple[Whole, ...], BeforeValidator(_layers)]
Seed = Annotated[int, BeforeValidator(_whole)]


class AdapterConfig(LazyModel):
    """Base of all adapter configs. Use `parse_config` or `AdapterConfig.load` to get one from text, JSON or a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    method: str

    @staticmethod
    def load(config: Any, **overrides: Any) -> AdapterConfig:
        """A config from a preset string, a dict, a JSON file or another config, with fields replaced by `overrides`."""
        return parse_config(config, **overrides)

    def replace(self, **overrides: Any) -> Self:
        """The same config with other values for some fields, validated anew."""
        config = parse_config({**self.expand(), **overrides})
        assert isinstance(config, type(self))
        return config

    def expand(self) -> dict[str, Any]:
        """Every field with its value, in JSON types."""
        return self.model_dump(mode="json")

    def canonical_json(self) -> str:
        """RFC 8785 text of the expanded config with the version of the spec beside it."""
        return canonical_json({"spec_version": SPEC_VERSION, **self.expand()})

    @property
    def config_id(self) -> str:
        """`sha256:` and 64 hex digits: the identity of this config."""
        return digest_of({"spec_version": SPEC_VERSION, **self.expand()})

    @property
    def legacy_config_id(self) -> str | None:
        """The 16 hex digits the 2020 hub and `adapters` use for this config, or None where they have no such config."""
        from adapterhub.spec.adapters_config import legacy_config_id

        return legacy_config_id(self)

    def __hash__(self) -> int:
        return hash(self.canonical_json())


class BottleneckConfig(AdapterConfig):
    """Bottleneck adapters (Houlsby et al., 2019; Pfeiffer et al., 2020; He et al., 2022): down, non-linearity, up.

    `mh_adapter`, `output_adapter`, `cross_adapter` place one after the self-attention, the feed-forward and the
    cross-attention sublayer. The remaining switches are the dashed lines of Figure 3 of the AdapterHub paper: whether the
    model's norm runs before or after, whether the adapter has norms of its own, and from where the residual is taken.
    """

    method: Literal["bottleneck"] = "bottleneck"

    mh_adapter: StrictBool = False
    output_adapter: StrictBool = True
    cross_adapter: StrictBool = False
    reduction_factor: Positive | dict[str, Positive] | None = Field(
        16,
        description="hidden size / bottleneck size; a map of layer index (or 'default') to factor varies it by layer",
    )
    bottleneck_size: Count | None = Field(None, description="the bottleneck size itself, instead of a reduction factor")
    non_linearity: Activation = "relu"
    original_ln_before: StrictBool = False
    original_ln_after: StrictBool = True
    ln_before: StrictBool = False
    ln_after: StrictBool = False
    residual_before_ln: StrictBool | Literal["post_add"] = True
    adapter_residual_before_ln: StrictBool = False
    is_parallel: StrictBool = False
    scaling: Number | Literal["learned", "channel"] = 1
    use_gating: StrictBool = False
    dropout: Probability = 0
    stochastic_depth: Probability = 0
    init_weights: Literal["bert", "mam_adapter", "houlsby"] = "bert"
    init_weights_seed: Seed | None = None
    leave_out: Layers = ()
    inv_adapter: Literal["nice", "glow"] | None = None
    inv_adapter_reduction_factor: Positive | None = None
    phm_layer: StrictBool = False
    phm_dim: Count = 4
    phm_rank: Count = 1
    phm_bias: StrictBool = True
    phm_c_init: Literal["normal", "uniform"] = "normal"
    phm_init_range: Number = 0.0001
    factorized_phm_W: StrictBool = True
    shared_W_phm: StrictBool = False
    shared_phm_rule: StrictBool = True
    factorized_phm_rule: StrictBool = False
    learn_phm: StrictBool = True
    hypercomplex_nonlinearity: Literal["glorot-uniform", "glorot-normal", "normal"] = "glorot-uniform"

    @field_validator("reduction_factor", mode="before")
    @classmethod
    def _text_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        keyed = {str(key): factor for key, factor in value.items()}
        wrong = [key for key in keyed if not _LAYER_KEY.fullmatch(key)]
        if wrong:
            raise ValueError(f"keys are layer indices (0, 1, …) or 'default', not {', '.join(sorted(wrong))}")
        return keyed

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not (self.mh_adapter or self.output_adapter or self.cross_adapter or self.inv_adapter):
            raise ValueError(
                "the adapter is placed nowhere: set mh_adapter, output_adapter, cross_adapter or inv_adapter"
            )
        if self.bottleneck_size is None and self.reduction_factor is None:
            raise ValueError("give either reduction_factor or bottleneck_size")
        if self.bottleneck_size is not None and self.reduction_factor is not None:
            if "reduction_factor" in self.model_fields_set:
                raise ValueError("reduction_factor and bottleneck_size exclude each other; leave one null")
            object.__setattr__(self, "reduction_factor", None)
        if self.inv_adapter is not None and self.inv_adapter_reduction_factor is None:
            object.__setattr__(self, "inv_adapter_reduction_factor", 2)
        if self.phm_layer and self.init_weights != "bert":
            raise ValueError(f"init_weights={self.init_weights!r} is not defined for PHM layers; use 'bert'")
        return self


class LoRAConfig(AdapterConfig):
    """Low-rank updates of linear layers (Hu et al., 2022), with DoRA (Liu et al., 2024) and rank-stabilised scaling.

    `attn_matrices` picks among the attention linears (q, k, v, o); `intermediate_lora` and `output_lora` take the up and
    the down projection of the feed-forward network. `targets` names linears by role or by module path suffix instead.
    """

    method: Literal["lora"] = "lora"

    r: Count = 8
    alpha: Number = 8
    dropout: Probability = 0
    selfattn_lora: StrictBool = True
    intermediate_lora: StrictBool = False
    output_lora: StrictBool = False
    attn_matrices: tuple[Literal["q", "k", "v", "o"], ...] = ("q", "v")
    targets: tuple[StrictStr, ...] | None = None
    rank_pattern: dict[str, Count] = Field(default_factory=dict)
    alpha_pattern: dict[str, Number] = Field(default_factory=dict)
    composition_mode: Literal["add", "scale"] = "add"
    use_gating: StrictBool = False
    use_dora: StrictBool = False
    use_rslora: StrictBool = False
    bias: StrictBool = Field(False, description="a trained offset beside each update, added to the output of the map")
    init_weights: Literal["lora", "bert", "gaussian", "orthogonal"] = "lora"
    init_weights_seed: Seed | None = None
    leave_out: Layers = ()


class IA3Config(AdapterConfig):
    """Learned rescaling of activations (Liu et al., 2022): keys, values and the inside of the feed-forward network.

    `ffn` tells where the feed-forward vector acts: on the output of the up projection before the non-linearity, or on
    the input of the down projection as in the paper. With `targets` (rescaled outputs) and `input_targets` (rescaled
    inputs) linear maps are named by role or by the end of their module path instead.
    """

    method: Literal["ia3"] = "ia3"

    alpha: Number = 1
    attn_matrices: tuple[Literal["q", "k", "v", "o"], ...] = ("k", "v")
    selfattn: StrictBool = True
    ffn: Literal["up_output", "down_input"] | None = "up_output"
    targets: tuple[StrictStr, ...] | None = None
    input_targets: tuple[StrictStr, ...] = ()
    dropout: Probability = 0
    use_gating: StrictBool = False
    init_weights_seed: Seed | None = None
    leave_out: Layers = ()


class PrefixTuningConfig(AdapterConfig):
    """Trained keys and values before those of the text (Li & Liang, 2021), optionally through a small network."""

    method: Literal["prefix"] = "prefix"

    prefix_length: Count = 30
    bottleneck_size: Count = 512
    non_linearity: Activation = "tanh"
    flat: StrictBool = False
    encoder_prefix: StrictBool = True
    cross_prefix: StrictBool = True
    dropout: Probability = 0
    use_gating: StrictBool = False
    shared_gating: StrictBool = True
    positions: StrictBool = Field(False, description="the prefix takes the first positions, the text those after it")
    init_weights_seed: Seed | None = None
    leave_out: Layers = ()


class PromptTuningConfig(AdapterConfig):
    """Trained embeddings before those of the text (Lester et al., 2021)."""

    method: Literal["prompt"] = "prompt"

    prompt_length: Count = 10
    prompt_init: Literal["random_uniform", "from_string"] = "random_uniform"
    prompt_init_text: StrictStr | None = None
    random_uniform_scale: Positive = 0.5
    combine: Literal["prefix", "prefix_after_bos", "prefix_words"] = "prefix"
    init_weights_seed: Seed | None = None

    @model_validator(mode="after")
    def _text_given(self) -> Self:
        if (self.prompt_init == "from_string") != (self.prompt_init_text is not None):
            raise ValueError("prompt_init_text goes with prompt_init='from_string', and only with it")
        return self


class ReftConfig(AdapterConfig):
    """Interventions on hidden states (Wu et al., 2024): h + R^T(act(W h + b) - R h) at some positions of each layer.

    `orthogonality` keeps the rows of R orthonormal (LoReFT); `subtract_projection=False` drops the term R h (DiReFT).
    """

    method: Literal["reft"] = "reft"

    layers: Literal["all"] | Layers = "all"
    prefix_positions: Whole = 3
    suffix_positions: Whole = 0
    r: Count = 1
    orthogonality: StrictBool = True
    subtract_projection: StrictBool = True
    tied_weights: StrictBool = False
    dropout: Probability = 0.05
    non_linearity: Activation | None = None
    init_weights_seed: Seed | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.prefix_positions + self.suffix_positions == 0:
            raise ValueError("no position is changed: set prefix_positions or suffix_positions")
        return self


Member = Annotated[
    BottleneckConfig | LoRAConfig | IA3Config | PrefixTuningConfig | PromptTuningConfig | ReftConfig,
    Field(discriminator="method"),
]


class UnionConfig(AdapterConfig):
    """Several methods under one name, side by side (He et al., 2022; Mao et al., 2022)."""

    method: Literal["union"] = "union"

    configs: tuple[Member, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for position, config in enumerate(self.configs):
            for other in self.configs[:position]:
                if config.method == other.method and not _apart(config, other):
                    raise ValueError(
                        f"two {config.method} members sit at the same places; let them differ in placement or leave_out"
                    )
        return self


def _apart(one: AdapterConfig, other: AdapterConfig) -> bool:
    """Whether two members of one method can be at different places; with `leave_out` only the model's layers tell."""
    if isinstance(one, BottleneckConfig) and isinstance(other, BottleneckConfig):
        if one.inv_adapter and other.inv_adapter:
            return False
        sites = ("mh_adapter", "output_adapter", "cross_adapter")
        if not any(getattr(one, site) and getattr(other, site) for site in sites):
            return True
    return bool(getattr(one, "leave_out", ())) or bool(getattr(other, "leave_out", ()))


@cache
def any_config() -> TypeAdapter[Any]:
    """What validates and describes a config of any method."""
    return TypeAdapter(
        Annotated[
            BottleneckConfig
            | LoRAConfig
            | IA3Config
            | PrefixTuningConfig
            | PromptTuningConfig
            | ReftConfig
            | UnionConfig,
            Field(discriminator="method"),
        ]
    )


def parse_config(config: Any, **overrides: Any) -> AdapterConfig:
    """An adapter config from whatever a user has at hand.

    Args:
        config: a preset name (`"pfeiffer"`), one with overrides (`"pfeiffer[reduction_factor=12]"`), several joined to a
            union (`"prefix[prefix_length=10]|parallel"`), a dict (ours, or one of `adapters` / `adapter-transformers`),
            a path of a JSON file, or a config.
        overrides: fields to replace.

    Raises:
        InvalidConfigError: unknown preset, unknown field or a value that makes no sense; `details["problems"]` lists
            `{"pointer", "message"}` of each.
    """
    if isinstance(config, AdapterConfig):
        return config.replace(**overrides) if overrides else config
    if isinstance(config, Path) or (isinstance(config, str) and config.endswith(".json")):
        return parse_config(_read(Path(config)), **overrides)
    if isinstance(config, str):
        from adapterhub.spec.presets import parse_preset

        return parse_preset(config, **overrides)
    if isinstance(config, Mapping):
        return _from_mapping(config, overrides)
    raise InvalidConfigError(
        f"An adapter config cannot be made from {type(config).__name__}.",
        hint="Give a preset name such as 'pfeiffer', a dict, a JSON file or a config object.",
    )


def _from_mapping(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> AdapterConfig:
    fields = dict(config)
    if "config" in fields and isinstance(fields["config"], Mapping):  # a whole adapter_config.json
        fields = dict(fields["config"])
    fields.pop("spec_version", None)
    if "method" not in fields:
        from adapterhub.spec.adapters_config import from_adapters

        fields = from_adapters(fields).expand()
    return validated({**fields, **overrides})


def validated(fields: Mapping[str, Any]) -> AdapterConfig:
    """The config of `fields` (with `method`), or an `InvalidConfigError` that lists every problem at once."""
    try:
        config: AdapterConfig = any_config().validate_python(dict(fields))
        return config
    except ValidationError as error:
        problems = [*_problems(error), *_between_fields(fields, error)]
        told = "; ".join(f"{problem['pointer'] or 'config'}: {problem['message']}" for problem in problems)
        raise InvalidConfigError(f"The adapter config is not valid: {told}.", details={"problems": problems}) from None


def _problems(error: ValidationError) -> list[dict[str, str]]:
    return [
        {"pointer": _pointer(problem["loc"]), "message": problem["msg"].removeprefix("Value error, ")}
        for problem in error.errors()
    ]


def _between_fields(fields: Mapping[str, Any], error: ValidationError) -> list[dict[str, str]]:
    """Problems between fields that are in order by themselves, which pydantic looks for only where no field is wrong."""
    wrong = {str(problem["loc"][1]) for problem in error.errors() if len(problem["loc"]) > 1}
    if not wrong:
        return []
    try:
        any_config().validate_python({name: value for name, value in fields.items() if name not in wrong})
    except ValidationError as other:
        found = [problem for problem in _problems(other) if not problem["pointer"]]
        return [problem for problem in found if not any(name in problem["message"] for name in wrong)]
    return []


def _pointer(location: tuple[int | str, ...]) -> str:
    methods = {"bottleneck", "lora", "ia3", "prefix", "prompt", "reft", "union"}
    # the tag of the union, and pydantic's names for the arms of a field, are no part of the document
    parts = [
        str(part)
        for position, part in enumerate(location)
        if not (part in methods and position in (0, 3)) and not _arm(part)
    ]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def _arm(part: int | str) -> bool:
    return isinstance(part, str) and (
        "[" in part
        or part in {"bool", "int", "float", "str", "tuple", "union[int,float]"}
        or part.startswith("function-")
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfigError(f"The config file {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise InvalidConfigError(f"The config file {path} is no JSON: {error}.") from None
