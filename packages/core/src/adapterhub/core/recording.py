"""What every module of a model was given and gave in one small forward, for discovery to look through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from adapterhub.core.checking import first_tensor, quiet
from adapterhub.core.dummy import run_small
from adapterhub.spec.errors import UnsupportedModelError

__all__ = ["Call", "Read", "Recording", "Written", "record"]

#: rows of the small input: few lengths and numbers of heads are 3
_ROWS = 3


@dataclass(slots=True)
class Read:
    """A module was called with this tensor."""

    time: int
    path: str
    argument: int
    keyword: str
    value: Tensor


@dataclass(slots=True)
class Written:
    """A module gave this tensor (first of its outputs)."""

    time: int
    path: str
    value: Tensor


@dataclass(slots=True)
class Call:
    """One call of one layer: what was read and written inside."""

    path: str
    start: int
    end: int = -1
    entry: Tensor | None = None
    exit: Tensor | None = None


@dataclass
class Recording:
    reads: list[Read] = field(default_factory=list)
    writes: list[Written] = field(default_factory=list)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    clock: int = 0
    rows: int = 1

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def clear(self) -> None:
        """Forget everything."""
        self.reads.clear()
        self.writes.clear()
        self.calls.clear()


def record(base: nn.Module) -> Recording:
    recording = Recording()
    handles = []
    lists = {
        f"{path}.{name}" if path else name
        for path, module in base.named_modules()
        if isinstance(module, nn.ModuleList)
        for name, _ in module.named_children()
    }
    for path, module in base.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(_reader(recording, path, path in lists), with_kwargs=True))
            handles.append(module.register_forward_hook(_writer(recording, path, path in lists)))
    try:
        with quiet(base):
            recording.rows = _run_rows(base, recording)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(base).__name__} is of no known family, and could not be looked at: one small forward failed with "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            hint="Write a family file (see spec/families) and pass it: init(model, family=…).",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return recording


def _run_rows(base: nn.Module, recording: Recording) -> int:
    """Run the model on several rows, so that it shows which axis they are; on one where it takes no more."""
    try:
        run_small(base, rows=_ROWS, again=recording.clear)
    except Exception:  # noqa: BLE001 - whatever a model of another library raises
        recording.clear()
        run_small(base, again=recording.clear)
        return 1
    return _ROWS


def _reader(recording: Recording, path: str, is_layer: bool) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        time = recording.tick()
        given = [(i, "hidden_states", value) for i, value in enumerate(args)]
        given += [(99, name, value) for name, value in kwargs.items()]
        tensors = [(i, name, value) for i, name, value in given if isinstance(value, Tensor) and value.dim() >= 2]
        for i, name, value in tensors:
            if value.is_floating_point():
                recording.reads.append(Read(time, path, i, name, value.clone()))
        if is_layer:
            entry = next((value.clone() for _, _, value in tensors if value.is_floating_point()), None)
            recording.calls.setdefault(path, []).append(Call(path, time, entry=entry))

    return hook


def _writer(recording: Recording, path: str, is_layer: bool) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        value = first_tensor(output)
        time = recording.tick()
        if value is not None and value.dim() >= 2:
            recording.writes.append(Written(time, path, value.clone()))
        if is_layer:
            call = recording.calls[path][-1]
            call.end = time
            call.exit = None if value is None else value.clone()

    return hook
