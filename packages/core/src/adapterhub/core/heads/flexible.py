"""Models with flexible heads: a bare transformer and any number of named heads on it, the active one computing the logits.

For every bare class of transformers (`BertModel`) there is one here (`BertAdapterModel`), made when asked for. It keeps the
transformer under its usual prefix (`bert`), so that state dicts have the keys of transformers' own task classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.utils import ModelOutput

from adapterhub.core.heads import build_head
from adapterhub.core.heads.base import HeadInput, PredictionHead
from adapterhub.core.heads.conversion import static_to_flexible
from adapterhub.core.heads.language_modelling import LanguageModelHead
from adapterhub.core.heads.multiple_choice import MultipleChoiceHead
from adapterhub.core.heads.segments import segments_of
from adapterhub.core.heads.static import is_new_summary
from adapterhub.core.operations import Chain
from adapterhub.core.packed import only_unpacked
from adapterhub.core.pool import pool_of
from adapterhub.core.sites import module_key
from adapterhub.spec.errors import AdapterNotFoundError, CheckpointError, InvalidConfigError
from adapterhub.spec.heads import HeadConfig

if TYPE_CHECKING:
    from adapterhub.core.formats.checkpoint import HeadCheckpoint

__all__ = ["FlexibleHeads", "FlexibleHeadsModel", "MultiHeadOutput", "adapter_model_class", "with_flexible_heads"]

#: Arguments of a call that are for the heads, not for the transformer.
_FOR_HEADS = frozenset({"labels", "start_positions", "end_positions", "word_starts", "labels_arcs", "labels_rels"})


@dataclass
class MultiHeadOutput(ModelOutput):
    """Outputs of several heads in the order of their rows; `logits` joined where they have one shape, `loss` summed."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    head_outputs: tuple[ModelOutput, ...] | None = None

    @classmethod
    def of(cls, outputs: list[ModelOutput]) -> MultiHeadOutput:
        """The outputs together."""
        logits = [output.get("logits") for output in outputs]
        fits = all(isinstance(part, Tensor) for part in logits) and len({part.shape[1:] for part in logits}) == 1
        losses = [output["loss"] for output in outputs if output.get("loss") is not None]
        return cls(
            loss=torch.stack(losses).sum() if losses else None,
            logits=torch.cat(logits) if fits else None,
            head_outputs=tuple(outputs),
        )


class FlexibleHeads:
    """The heads of a model with flexible heads, for whoever saves, loads and trains (see `attached.Heads`)."""

    flexible = True

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.pool = pool_of(model)
        self.model_class = type(model).__name__
        self.active: str | None = None
        self._by_key: dict[str, str] = {}

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and module_key(name) in self._modules

    @property
    def _modules(self) -> nn.ModuleDict:
        found = self.model.heads
        assert isinstance(found, nn.ModuleDict)
        return found

    def get(self, name: str) -> PredictionHead:
        """The head module of that name.

        Raises:
            AdapterNotFoundError: there is none.
        """
        if name not in self:
            raise AdapterNotFoundError(
                f"There is no head {name!r}.",
                hint=f"Heads: {', '.join(self.names()) or 'none'}.",
                candidates=self.names(),
            )
        head = self._modules[module_key(name)]
        assert isinstance(head, PredictionHead)
        return head

    def put(self, name: str, config: HeadConfig, overwrite: bool = False) -> PredictionHead:
        """A new head, active from now on.

        Raises:
            InvalidConfigError: the name is taken.
        """
        if name in self and not overwrite:
            raise InvalidConfigError(
                f"The model already has a head {name!r}.", hint="Pass overwrite_ok=True to replace it."
            )
        head = build_head(config, self.pool.base_model.config)
        if isinstance(head, LanguageModelHead) and head.tie(self._embeddings()):
            self._declare_tie(f"heads.{module_key(name)}.out.weight")
        device, dtype = _home(self.pool.base_model)
        for parameter in head.parameters():
            if not self._shared(parameter):
                parameter.data = parameter.data.to(device=device, dtype=dtype)
        head.train(self.model.training)
        self._modules[module_key(name)] = head
        self._by_key[module_key(name)] = name
        self.active = name
        return head

    def add(self, name: str) -> None:
        """Nothing: flexible heads are added by their own methods, `add_classification_head` and the like."""

    def delete(self, name: str) -> None:
        """Removes a head."""
        if name in self:
            del self._modules[module_key(name)]
            if self.active == name:
                self.active = None

    def names(self) -> list[str]:
        """The names of all heads."""
        return [self._by_key.get(key, key) for key in self._modules]

    def activate(self, name: str | None) -> None:
        """Makes a head the one that computes the logits; None: the model returns hidden states."""
        if name is not None:
            self.get(name)
        self.active = name

    def config_of(self, name: str) -> HeadConfig:
        """The config of a head."""
        return self.get(name).config

    def parameters(self, name: str | None) -> dict[str, nn.Parameter]:
        """Key → parameter of a head, less what it shares with the transformer, with a newly initialised pooler it uses."""
        if name is None:
            return {}
        head = self.get(name)
        own = {key: parameter for key, parameter in head.named_parameters() if not self._shared(parameter)}
        if head.config.use_pooler:
            own |= {f"base.{key}": parameter for key, parameter in self._new_summary().items()}
        return own

    def trainable(self, name: str | None, flag: bool = True) -> None:
        """Switches gradients of a head on or off."""
        for parameter in self.parameters(name).values():
            parameter.requires_grad_(flag)

    def save(self, name: str) -> HeadCheckpoint | None:
        """The head for a checkpoint, or None where there is none of that name."""
        from adapterhub.core.formats.checkpoint import HeadCheckpoint

        if name not in self:
            return None
        tensors = {key: parameter.detach() for key, parameter in self.parameters(name).items()}
        return HeadCheckpoint(self.get(name).config, tensors, name)

    def load(self, name: str, head: HeadCheckpoint, strict: bool = True) -> list[str]:
        """A head from a checkpoint; the head of a task class becomes the flexible head that computes the same.

        Raises:
            CheckpointError: tensors that do not fit the config.
        """
        if head.config.head_type == "static":
            head = static_to_flexible(head, self.pool.base_model.config)
        before = self.active
        replaced = self._modules[module_key(name)] if name in self else None
        try:
            module = self.put(name, head.config, overwrite=True)
            return self._fill(module, head, strict)
        except Exception:
            self.delete(name)
            if replaced is not None:
                self._modules[module_key(name)] = replaced
            self.active = before
            raise

    def detach(self) -> None:
        """Nothing: the heads are the model's own."""

    def _fill(self, module: PredictionHead, head: HeadCheckpoint, strict: bool) -> list[str]:
        own = dict(module.named_parameters())
        summary = self._new_summary()
        base = {key.removeprefix("base."): value for key, value in head.tensors.items() if key.startswith("base.")}
        given = {key: value for key, value in head.tensors.items() if not key.startswith("base.")}
        wrong = [
            f"{key} is {tuple(value.shape)} instead of {tuple(own[key].shape)}"
            for key, value in given.items()
            if key in own and value.shape != own[key].shape
        ]
        missing = [key for key, parameter in own.items() if key not in given and not self._shared(parameter)]
        unexpected = [key for key in given if key not in own]
        if wrong or (strict and (missing or unexpected)):
            raise CheckpointError(
                f"The head's weights do not fit its config: {'; '.join(wrong) or f'missing {missing}, unexpected {unexpected}'}.",
                hint="Pass with_head=False to load the adapter alone.",
            )
        for key, value in given.items():
            if key not in own:
                continue
            if self._shared(own[key]):
                if torch.equal(own[key].detach().to(value), value):
                    continue
                assert isinstance(module, LanguageModelHead)
                module.out.weight = nn.Parameter(torch.empty_like(own[key]), requires_grad=False)
                own[key] = module.out.weight
            own[key].data.copy_(value)
        with only_unpacked():
            inside = dict(self.pool.base_model.named_parameters()) if base else {}
        for key, value in base.items():
            if key in summary:
                summary[key].data.copy_(value)
            else:
                there = inside.get(key)
                if strict and (there is None or not torch.equal(there.detach().to(value), value)):
                    raise CheckpointError(
                        f"The head was trained with a {key!r} of its own, and this model has another one.",
                        hint="Load the head on the base model it was trained on, or pass with_head=False.",
                    )
        return list(head.tensors)

    @only_unpacked()
    def _declare_tie(self, key: str) -> None:
        """Tells transformers that this key is the embedding matrix again, so that `save_pretrained` writes it once."""
        weight = self._embeddings().weight
        source = next(name for name, p in self.model.named_parameters() if p is weight)
        known = getattr(self.model, "_tied_weights_keys", None) or {}
        self.model.__dict__["_tied_weights_keys"] = {**known, key: source}

    def _embeddings(self) -> nn.Module:
        found: nn.Module = self.pool.base_model.get_input_embeddings()  # type: ignore[operator]
        return found

    def _shared(self, parameter: nn.Parameter) -> bool:
        return parameter is getattr(self._embeddings(), "weight", None)

    @only_unpacked()
    def _new_summary(self) -> dict[str, nn.Parameter]:
        return {
            key: p for key, p in self.pool.base_model.named_parameters() if is_new_summary(self.pool.base_model, key, p)
        }


class FlexibleHeadsModel:
    """What the generated classes have: a transformer under its prefix, `heads`, and a forward through the active head.

    `model(…)` takes the arguments of the transformer and those of the head (`labels`, …); `head=` picks another head for
    one call. Without an active head it returns what the transformer returns.
    """

    _bare_class: type[PreTrainedModel]
    #: heads average their loss over the batch they see; the Trainer is not to hand them a divisor of its own
    accepts_loss_kwargs = False

    def __init__(self, config: Any, base: PreTrainedModel | None = None) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        setattr(self, self.base_model_prefix, base if base is not None else self._bare_class(config))  # type: ignore[attr-defined]
        self.heads = nn.ModuleDict()
        self.post_init()  # type: ignore[attr-defined]

    def init_weights(self) -> None:
        """Nothing: the transformer has been initialised or loaded, heads initialise themselves."""

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.base_model.get_input_embeddings()  # type: ignore[attr-defined]
        return found

    def get_output_embeddings(self) -> nn.Module | None:
        heads = self.__dict__.get("_adapterhub_heads")
        head = heads.get(heads.active) if heads is not None and heads.active is not None else None
        return head.out if isinstance(head, LanguageModelHead) else None

    def forward(self, *args: Any, head: str | None = None, **kwargs: Any) -> Any:
        base = self.base_model  # type: ignore[attr-defined]
        kwargs = {**dict(zip(_arguments_of(base), args, strict=False)), **kwargs}
        heads: FlexibleHeads | None = self.__dict__.get("_adapterhub_heads")
        name = head if head is not None else (heads.active if heads is not None else None)
        plan = None if heads is None else _rows_by_head(heads, head, kwargs)
        module = None if heads is None or name is None else heads.get(name)
        given = _prepared(self, module, kwargs)
        for_base = {key: value for key, value in given.items() if key not in _FOR_HEADS and key != "num_choices"}
        return_dict = for_base.pop("return_dict", None)
        outputs = base(**for_base, return_dict=True)
        if heads is not None and plan is not None:
            if len({found for found, _ in plan}) > 1:
                return _several(heads, plan, outputs, given)
            module = heads.get(plan[0][0])
        if module is None:
            return outputs if return_dict is not False else outputs.to_tuple()
        result = module(HeadInput(outputs, given, _inverse(self)))
        return result if return_dict is not False else result.to_tuple()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Decoder inputs for training: the labels moved right by one (used by transformers' data collators)."""
        return _shifted_right(labels, self.config)  # type: ignore[attr-defined]


def adapter_model_class(bare: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """`BertModel` → `BertAdapterModel`."""
    made: type[PreTrainedModel] = _generated(bare)  # type: ignore[arg-type]
    return made


def with_flexible_heads(base: PreTrainedModel) -> PreTrainedModel:
    """A model with flexible heads (none yet) around a bare transformer."""
    model: PreTrainedModel = adapter_model_class(type(base))(base.config, base)
    model.train(base.training)
    return model


@cache
def _generated(bare: type[PreTrainedModel]) -> type[PreTrainedModel]:
    parent = next(kind for kind in bare.__mro__[1:] if issubclass(kind, PreTrainedModel))
    name = f"{bare.__name__.removesuffix('Model')}AdapterModel"
    bases: tuple[type, ...] = (
        (FlexibleHeadsModel, parent, GenerationMixin) if _generates(bare) else (FlexibleHeadsModel, parent)
    )
    members = {"__module__": "adapterhub.core.adapter_models", "__qualname__": name, "_bare_class": bare}
    made: type[PreTrainedModel] = type(parent)(name, bases, members)
    return made


def _generates(bare: type[PreTrainedModel]) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    )

    kind = getattr(bare.config_class, "model_type", "")
    return any(
        kind in names
        for names in (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        )
    )


def _arguments_of(base: nn.Module) -> list[str]:
    """The names of the arguments of a model's forward, in order."""
    return list(inspect.signature(base.forward).parameters)


def _prepared(model: Any, head: PredictionHead | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with choices folded into the batch and decoder inputs made where the head needs them."""
    given = dict(kwargs)
    ids = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
    if isinstance(head, MultipleChoiceHead) and ids is not None and ids.dim() == (3 if "input_ids" in given else 4):
        given["num_choices"] = ids.shape[1]
        given = {
            key: value.flatten(0, 1) if isinstance(value, Tensor) and value.dim() >= 3 and key != "labels" else value
            for key, value in given.items()
        }
    no_decoder = given.get("decoder_input_ids") is None and given.get("decoder_inputs_embeds") is None
    if getattr(model.config, "is_encoder_decoder", False) and no_decoder:
        labels = given.get("labels")
        if isinstance(head, LanguageModelHead) and labels is not None:
            given["decoder_input_ids"] = _shifted_right(labels, model.config)
        elif given.get("input_ids") is not None and not isinstance(head, LanguageModelHead):
            given["decoder_input_ids"] = _shifted_right(given["input_ids"], model.config)
    return given


def _shifted_right(ids: Tensor, config: Any) -> Tensor:
    """`ids` moved right by one, the decoder's start token in front, -100 replaced by padding."""
    start = getattr(config, "decoder_start_token_id", None)
    pad = getattr(config, "pad_token_id", None)
    if start is None:
        raise InvalidConfigError("The model's config names no decoder_start_token_id; pass decoder_input_ids.")
    moved = torch.cat([ids.new_full((ids.shape[0], 1), start), ids[:, :-1]], dim=1)
    return moved if pad is None else moved.masked_fill(moved == -100, pad)


def _rows_by_head(heads: FlexibleHeads, head: str | None, kwargs: Mapping[str, Any]) -> list[tuple[str, int]] | None:
    """Which head computes which rows, where the setup of this call says so; None where the active one computes all."""
    if head is not None or not heads.names():
        return None
    rows = next((v.shape[0] for v in kwargs.values() if isinstance(v, Tensor) and v.dim() > 0), None)
    segments = None if rows is None else segments_of(heads.pool, heads, rows)
    if segments is None:
        return None
    named = [(name if name is not None else heads.active, size) for name, size in segments]
    if any(name is None for name, _ in named) or all(name == heads.active for name, _ in named):
        return None
    return [(name, size) for name, size in named if name is not None]


def _several(
    heads: FlexibleHeads, plan: list[tuple[str, int]], outputs: ModelOutput, given: Mapping[str, Any]
) -> MultiHeadOutput:
    total = sum(size for _, size in plan)
    results, start = [], 0
    for name, size in plan:
        rows = slice(start, start + size)
        start += size
        cut = {key: _cut(value, rows, total) for key, value in outputs.items()}
        mine = {key: _cut(value, rows, total) for key, value in given.items()}
        results.append(heads.get(name)(HeadInput(type(outputs)(**cut), mine, _inverse_in(heads.model, rows, total))))
    return MultiHeadOutput.of(results)


def _inverse_in(model: Any, rows: slice, total: int) -> Any:
    """What undoes the invertible adapters in force in these rows of a batch of `total`; None where there are none."""
    undo = _inverse(model)
    if undo is None:
        return None

    def inverse(value: Tensor) -> Tensor:
        whole = value.new_zeros(total, *value.shape[1:])
        whole[rows] = value
        found: Tensor = undo(whole)[rows]
        return found

    return inverse


def _cut(value: Any, rows: slice, total: int) -> Any:
    if isinstance(value, Tensor):
        return value[rows] if value.dim() > 0 and value.shape[0] == total else value
    if isinstance(value, tuple):
        return tuple(_cut(item, rows, total) for item in value)
    return value


def _inverse(model: Any) -> Any:
    """What undoes the invertible adapters in force, the last one first; None where there are none."""
    site = pool_of(model).embedding_site
    operation = None if site is None else site.operation()
    return None if operation is None else _inverse_of(operation)


def _inverse_of(operation: Any) -> Any:
    if isinstance(operation, Chain):
        steps = [_inverse_of(part) for part in reversed(operation.parts)]
        return lambda value: reduce(lambda given, step: step(given), steps, value)
    return getattr(operation, "inverse", None)


def _home(base: nn.Module) -> tuple[torch.device, torch.dtype]:
    found = next((p for p in base.parameters() if p.is_floating_point() and p.element_size() > 1), None)
    return (torch.device("cpu"), torch.get_default_dtype()) if found is None else (found.device, found.dtype)
