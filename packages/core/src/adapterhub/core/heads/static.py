"""The head of a transformers task class (`classifier`, `score`, `lm_head`, …), kept once for every adapter.

Which parameters are the head
    Everything outside the bare transformer, and what stands between its last layer and the head and was newly
    initialised when the model was loaded (a pooler the checkpoint did not have): without these a fresh process could not
    give the same logits. A pooler that came with the checkpoint belongs to the frozen model and stays out.
    Of a language-model head only newly initialised parts count: its trained or tied embeddings belong to the model.

How an adapter gets its own
    `train_adapter` and `load_adapter` make a copy named like the adapter. Activating the adapter puts the copy's parameters
    into the model's own modules, so keys, optimisers and `model.classifier` see the head in use; `detach` puts the original
    parameters back. Where a call selects other heads (`adapter_names=`, Parallel, BatchSplit, `AdapterSetup`), a forward
    hook on each head module computes those rows with their own copies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adapterhub.core.heads.conversion import flexible_to_static
from adapterhub.core.heads.kinds import LANGUAGE_MODELS, kind_of_head
from adapterhub.core.heads.segments import Segments
from adapterhub.core.packed import only_unpacked
from adapterhub.core.sites import module_key
from adapterhub.spec.errors import CheckpointError
from adapterhub.spec.heads import HeadConfig

if TYPE_CHECKING:
    from adapterhub.core.formats.checkpoint import HeadCheckpoint

__all__ = ["StaticHeads", "is_new_summary"]


class IdleHeads(nn.Module):
    """Parameters of the heads that are not in place, so that `.to()`, optimisers and state dicts see them."""


class StaticHeads:
    """The heads of one model with a static head.

    Args:
        model: a transformers model; its class decides what the head is.
        model_class: its own class, before any methods were added.
        base: the bare transformer inside it (or the model itself, which then has no head).
    """

    flexible = False

    def __init__(self, model: nn.Module, model_class: str, base: nn.Module) -> None:
        self.model = model
        self.model_class = model_class
        self.kind = kind_of_head(model_class)
        self.base_path = next((name for name, module in model.named_modules() if module is base), "")
        self.keys = _head_parameters(model, base, self.kind)
        #: key → every place that holds the parameter: (path of the module, name there); BERT's output bias has two
        self.places = _places(model, self.keys)
        #: path → module that owns head parameters
        self.owners = {path: model.get_submodule(path) for places in self.places.values() for path, _ in places}
        self.original = {key: self._live(key) for key in self.keys}
        self.copies: dict[str, dict[str, nn.Parameter]] = {}
        self.active: str | None = None
        #: set by the model: rows of this call → whose heads compute them, or None where the active one does
        self.segments: Callable[[int], Segments | None] | None = None
        self._handles = [
            module.register_forward_hook(functools.partial(_dispatch, self, path), with_kwargs=True)
            for path, module in self.owners.items()
            if path in {_computing(places, self.owners) for places in self.places.values()}
        ]
        config = getattr(model, "config", None)
        self.num_labels = int(getattr(config, "num_labels", 2) or 2)
        self.label2id = dict(getattr(config, "label2id", None) or {})

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __contains__(self, name: object) -> bool:
        return name in self.copies

    def add(self, name: str, tensors: Mapping[str, Tensor] | None = None, strict: bool = True) -> None:
        """A head for adapter `name`: a copy of the model's own, or `tensors` by key.

        Raises:
            CheckpointError: keys or shapes of `tensors` are not those of this model's head.
        """
        if not self.keys:
            return
        if tensors is not None:
            self._check(tensors, strict)
        given = tensors or {}
        copied = {}
        for key, like in self.original.items():
            value = given[key].to(device=like.device, dtype=like.dtype) if key in given else like.detach()
            copied[key] = nn.Parameter(value.clone(), requires_grad=False)
        was_active = self.active == name
        if was_active:
            self.activate(None)
        self.copies[name] = copied
        if was_active:
            self.activate(name)
        else:
            self._store()

    def names(self) -> list[str]:
        """The adapters that have a head of their own."""
        return list(self.copies)

    def config_of(self, name: str) -> HeadConfig:
        """The config of the head of `name`: all heads of a task class are of one kind."""
        return self.config()

    def delete(self, name: str) -> None:
        """Forgets the head of adapter `name`; the model's own takes its place where it was active."""
        if name in self.copies:
            if self.active == name:
                self.activate(None)
            del self.copies[name]
            self._store()

    def activate(self, name: str | None) -> None:
        """Puts the head of `name` (None or a name without a head: the model's own) into the model's modules."""
        name = name if name in self.copies else None
        if name == self.active:
            return
        for key, parameter in self.parameters(name).items():
            for path, leaf in self.places[key]:
                self.owners[path]._parameters[leaf] = parameter
        self.active = name
        self._store()

    def parameters(self, name: str | None) -> dict[str, nn.Parameter]:
        """Key → parameter of the head of `name` (None: the model's own), on the device and in the dtype of the live one."""
        found = self.original if name is None else self.copies[name]
        for key, parameter in found.items():
            live = self._live(key)
            if parameter is not live and (parameter.device != live.device or parameter.dtype != live.dtype):
                parameter.data = parameter.data.to(device=live.device, dtype=live.dtype)
        return dict(found)

    def module(self, path: str, name: str | None) -> nn.Module:
        """The head module at `path` as `name` has it: the same children, other parameters, none of our hooks."""
        owner = self.owners[path]
        clone = object.__new__(type(owner))
        clone.__dict__ = {**owner.__dict__, "_parameters": dict(owner._parameters)}
        clone._forward_hooks = type(owner._forward_hooks)()
        clone._forward_pre_hooks = type(owner._forward_pre_hooks)()
        for key, parameter in self.parameters(name).items():
            for where, leaf in self.places[key]:
                if where == path:
                    clone._parameters[leaf] = parameter
        return clone

    def save(self, name: str) -> HeadCheckpoint | None:
        """The head of `name` for a checkpoint; None where it has none. Keys of the bare transformer start with `base.`."""
        from adapterhub.core.formats.checkpoint import HeadCheckpoint

        if name not in self.copies:
            return None
        tensors = {self._out(key): parameter.detach() for key, parameter in self.parameters(name).items()}
        return HeadCheckpoint(self.config(), tensors, name)

    def load(self, name: str, head: HeadCheckpoint, strict: bool = True) -> list[str]:
        """The head of `name` from a checkpoint, a flexible one turned into this class's where both compute the same.

        Returns:
            the keys that were used.

        Raises:
            CheckpointError: it does not fit this class.
        """
        tensors = head.tensors
        if head.config.head_type != "static":
            tensors = flexible_to_static(head, self.keys, self.kind, getattr(self.model, "config", None))
        elif not strict or kind_of_head(head.config.model_class or "") == self.kind:
            pass
        else:
            raise CheckpointError(
                f"The checkpoint's head is that of {head.config.model_class}, this model is a {self.model_class}.",
                hint="Pass with_head=False to load the adapter alone.",
            )
        given = {self._in(key): value for key, value in tensors.items()}
        self.add(name, self._own(given), strict)
        return list(tensors)

    def _own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`tensors` without those this model has elsewhere already, tied: a second name of a part of the head, or the
        embeddings of the model with the same numbers."""
        live = dict(self.model.named_parameters(remove_duplicate=False))
        names = {id(live[key]): key for key in self.original if key in live}
        found: dict[str, Tensor] = {}
        for key, value in tensors.items():
            parameter = live.get(key)
            if key in self.original or parameter is None:
                found[key] = value
            elif id(parameter) in names:
                found.setdefault(names[id(parameter)], value)
            elif not _equal(parameter, value):
                found[key] = value
        return found

    def check_tied(self, head: HeadCheckpoint) -> None:
        """That a model without a head of its own computes with what the checkpoint's head holds, as far as it has it.

        Raises:
            CheckpointError: it has other numbers there.
        """
        live = dict(self.model.named_parameters(remove_duplicate=False))
        if head.config.head_type != "static":
            return
        for key, value in head.tensors.items():
            parameter = live.get(self._in(key))
            if parameter is not None and not _equal(parameter, value):
                raise CheckpointError(
                    f"{key} of the checkpoint's head is not this {self.model_class}'s, which is tied to its embeddings.",
                    hint="Load the base model the adapter was made on with its own head, or pass with_head=False.",
                )

    def config(self) -> HeadConfig:
        """What is written beside the tensors."""
        labels = self.label2id if len(self.label2id) == self.num_labels and self._labelled() else None
        return HeadConfig(
            head_type="static",
            model_class=self.model_class,
            num_labels=self.num_labels if self._labelled() else None,
            label2id={str(key): int(value) for key, value in labels.items()} if labels else None,
        )

    def trainable(self, name: str | None, flag: bool = True) -> None:
        """Switches gradients of a head on or off."""
        for parameter in self.parameters(name if name in self.copies else None).values():
            parameter.requires_grad_(flag)

    def detach(self) -> None:
        """The model's own parameters back in place, hooks off."""
        self.activate(None)
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.copies = {}
        self._store()

    def _labelled(self) -> bool:
        return self.kind in ("classification", "image_classification", "tagging")

    def _check(self, tensors: Mapping[str, Tensor], strict: bool) -> None:
        problems = [
            f"{key} has shape {tuple(tensor.shape)}, this model's head {tuple(self.original[key].shape)}"
            for key, tensor in tensors.items()
            if key in self.original and tensor.shape != self.original[key].shape
        ]
        if problems:
            rows = {tensor.shape[0] for tensor in tensors.values() if tensor.dim()}
            raise CheckpointError(
                f"The head does not fit {self.model_class}: {'; '.join(problems)}.",
                hint=f"Load the model with the head's number of labels ({sorted(rows)[0]}?) or pass with_head=False."
                if self._labelled()
                else "Pass with_head=False to load the adapter alone.",
            )
        missing = [key for key in self.keys if key not in tensors and not self._optional(key)]
        unexpected = [key for key in tensors if key not in self.original]
        if strict and (missing or unexpected):
            raise CheckpointError(
                f"The head does not fit {self.model_class}: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}.",
                hint="Pass with_head=False to load the adapter alone, or strict=False to take what fits.",
            )

    def _optional(self, key: str) -> bool:
        """Newly initialised parts of the bare transformer: heads saved where these came with the checkpoint lack them."""
        return bool(self.base_path) and key.startswith(f"{self.base_path}.")

    def _out(self, key: str) -> str:
        front = f"{self.base_path}."
        return f"base.{key.removeprefix(front)}" if self.base_path and key.startswith(front) else key

    def _in(self, key: str) -> str:
        return f"{self.base_path}.{key.removeprefix('base.')}" if self.base_path and key.startswith("base.") else key

    def _store(self) -> None:
        """Keeps the heads that are not in place under `adapterhub_heads` of the model."""
        idle = {name: parameters for name, parameters in self.copies.items() if name != self.active}
        self.model._modules.pop("adapterhub_heads", None)
        if idle:
            held = IdleHeads()
            for name, parameters in idle.items():
                module = IdleHeads()
                module._parameters.update({module_key(key): parameter for key, parameter in parameters.items()})
                held._modules[module_key(name)] = module
            self.model._modules["adapterhub_heads"] = held

    def _live(self, key: str) -> nn.Parameter:
        path, leaf = _cut(key)
        parameter = self.owners[path]._parameters[leaf]
        assert parameter is not None
        return parameter


def _dispatch(
    heads: StaticHeads, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """Forward hook of a head module: rows that belong to another head than the one in place are computed by their own."""
    if heads.segments is None or not isinstance(output, Tensor):
        return output
    first = args[0] if args else next(iter(kwargs.values()))
    segments = heads.segments(first.shape[0])
    if segments is None or all(name == heads.active for name, _ in segments):
        return output

    def cut(value: Any, rows: slice) -> Any:
        return value[rows] if isinstance(value, Tensor) and value.shape[:1] == first.shape[:1] else value

    parts: list[Tensor] = []
    start = 0
    for name, size in segments:
        rows = slice(start, start + size)
        start += size
        name = name if name in heads.copies else None
        if name == heads.active:
            parts.append(output[rows])
        else:
            own = heads.module(path, name)
            parts.append(
                own(*(cut(value, rows) for value in args), **{key: cut(value, rows) for key, value in kwargs.items()})
            )
    return torch.cat(parts)


@only_unpacked()
def _places(model: nn.Module, keys: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Key → all the names of its parameter in the model, its own first, each taken apart."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    live = dict(model.named_parameters())
    return {key: [_cut(name) for name in dict.fromkeys([key, *names[id(live[key])]])] for key in keys}


def _computing(places: Sequence[tuple[str, str]], owners: Mapping[str, nn.Module]) -> str:
    """Path of the module that computes with a parameter: of several that hold it, one without parts."""
    return next((path for path, _ in places if not owners[path]._modules), places[0][0])


def _cut(key: str) -> tuple[str, str]:
    """`classifier.dense.weight` → (`classifier.dense`, `weight`)."""
    path, _, leaf = key.rpartition(".")
    return path, leaf


def _equal(parameter: nn.Parameter, value: Tensor) -> bool:
    if parameter.shape != value.shape or parameter.is_meta:
        return parameter.shape == value.shape
    return torch.equal(parameter.detach(), value.to(parameter.device, parameter.dtype))


#: Modules task classes put their head in, of those that hold a transformer's parts themselves (`T5ForQuestionAnswering`).
_HEAD_MODULES = frozenset({"classification_head", "classifier", "pre_classifier", "qa_outputs", "score"})


@only_unpacked()
def _head_parameters(model: nn.Module, base: nn.Module, kind: str | None) -> list[str]:
    if base is model:
        inside = {id(parameter) for name, parameter in model.named_parameters() if not _is_output(model, name)}
    else:
        inside = {id(parameter) for parameter in base.parameters()}
    own = [(name, p) for name, p in model.named_parameters() if id(p) not in inside]
    loaded = any(_was_loaded(parameter) for parameter in model.parameters())
    if kind in LANGUAGE_MODELS:
        own = [(name, p) for name, p in own if loaded and not _was_loaded(p)]
    names = [name for name, _ in own]
    if loaded and base is not model and names:
        inner = {id(p): name for name, p in model.named_parameters()}
        names += [inner[id(p)] for name, p in base.named_parameters() if is_new_summary(base, name, p)]
    return names


@only_unpacked()
def is_new_summary(base: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter of the bare transformer stands behind its layers (in a pooler) and was newly initialised although
    the transformer was loaded from a checkpoint."""
    parts = name.split(".")
    if any(part.isdigit() or "embed" in part or part.startswith("adapterhub_") for part in parts):
        return False
    return not _was_loaded(parameter) and any(_was_loaded(other) for other in base.parameters())


def _is_output(model: nn.Module, name: str) -> bool:
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if isinstance(output, nn.Embedding):
        return False  # the text's embeddings, used a second time
    if name.split(".")[0] in _HEAD_MODULES:
        return True
    path = (
        next((path for path, module in model.named_modules() if module is output), None) if output is not None else None
    )
    return path is not None and name.startswith(f"{path}.")


def _was_loaded(parameter: nn.Parameter) -> bool:
    """Whether `from_pretrained` found this parameter in the checkpoint (transformers marks those that it did)."""
    return bool(getattr(parameter, "_is_hf_initialized", False))
