"""The rows of the performance table that run a model: what is measured, against which yardstick, and the goal.

`Row.build(library)` asks the library (ours or a peer's, see `ours.py` and `peers/`) for the thing; a library that has no
such feature answers None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import workloads

Call = Callable[[], Any]


class Library(Protocol):
    """What a library must be able to do to take part; each method returns a model ready to call, or None."""

    name: str

    def attached(self, model: torch.nn.Module) -> torch.nn.Module | None: ...
    def single(self, model: torch.nn.Module, config: str) -> torch.nn.Module | None: ...
    def trained(self, model: torch.nn.Module, config: str) -> torch.nn.Module | None: ...
    def mixed(
        self, model: torch.nn.Module, names: list[str], config: str
    ) -> tuple[torch.nn.Module, dict[str, Any]] | None: ...
    def fused(self, model: torch.nn.Module, count: int, train: bool) -> torch.nn.Module | None: ...
    def parallel(self, model: torch.nn.Module, count: int) -> torch.nn.Module | None: ...


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured, and against which yardstick.
        goal: the ratio to reach, or None.
        build: library → (thing, yardstick), or None where the library cannot.
    """

    name: str
    goal: float | None
    build: Callable[[Library], tuple[Call, Call] | None]


def _single(shape: str, rows: int, length: int) -> Callable[[Library], tuple[Call, Call] | None]:
    def build(library: Library) -> tuple[Call, Call] | None:
        model = library.single(workloads.bert(shape), "bottleneck")
        inputs = workloads.tokens(rows, length)
        bare = workloads.bert(shape)
        return model and (workloads.inference(model.eval(), inputs), workloads.inference(bare, inputs))

    return build


def _attached(library: Library) -> tuple[Call, Call] | None:
    model = library.attached(workloads.bert("tiny"))
    inputs = workloads.tokens(8, 16)
    return model and (workloads.inference(model.eval(), inputs), workloads.inference(workloads.bert("tiny"), inputs))


def _trained(config: str) -> Callable[[Library], tuple[Call, Call] | None]:
    def build(library: Library) -> tuple[Call, Call] | None:
        model = library.trained(workloads.bert("base"), config)
        inputs = workloads.tokens(8, 64)
        frozen = workloads.floor(workloads.bert("base"))
        return model and (workloads.training(model.eval(), inputs), workloads.training(frozen, inputs))

    return build


def _full(library: Library) -> tuple[Call, Call] | None:
    inputs = workloads.tokens(8, 64)
    frozen = workloads.floor(workloads.bert("base"))
    return workloads.training(workloads.bert("base"), inputs), workloads.training(frozen, inputs)


def _mixed(
    adapters: int, rows: int, length: int, config: str = "bottleneck"
) -> Callable[[Library], tuple[Call, Call] | None]:
    def build(library: Library) -> tuple[Call, Call] | None:
        names = [f"a{position % adapters}" for position in range(rows)]
        built = library.mixed(workloads.bert("minilm"), names, config)
        if built is None:
            return None
        model, extra = built
        inputs = workloads.tokens(rows, length)
        bare = workloads.bert("minilm")
        return workloads.inference(model.eval(), inputs, **extra), workloads.inference(bare, inputs)

    return build


def _generated(adapters: int, config: str) -> Callable[[Library], tuple[Call, Call] | None]:
    def build(library: Library) -> tuple[Call, Call] | None:
        if library.name != "adapterhub":  # the peers' parts here are for BERT
            return None
        built = library.mixed(workloads.llama(), [f"a{number}" for number in range(adapters)], config)
        assert built is not None
        model, extra = built
        inputs, bare = workloads.tokens(adapters, 4), workloads.llama()
        return workloads.generating(model.eval(), inputs, 24, **extra), workloads.generating(bare, inputs, 24)

    return build


def _fused(count: int, train: bool) -> Callable[[Library], tuple[Call, Call] | None]:
    def build(library: Library) -> tuple[Call, Call] | None:
        model = library.fused(workloads.bert("minilm"), count, train)
        inputs = workloads.tokens(32, 64)
        other = workloads.floor(workloads.bert("minilm")) if train else workloads.bert("minilm")
        run = workloads.training if train else workloads.inference
        return model and (run(model.eval(), inputs), run(other, inputs))

    return build


def _parallel(library: Library) -> tuple[Call, Call] | None:
    model = library.parallel(workloads.bert("minilm"), 8)
    inputs = workloads.tokens(4, 64)
    return model and (workloads.inference(model.eval(), inputs), workloads.inference(workloads.bert("minilm"), inputs))


ROWS = [
    Row("one bottleneck, inference, 1 x 16, MiniLM size / bare", 1.04, _single("minilm", 1, 16)),
    Row("one bottleneck, inference, 16 x 128, MiniLM size / bare", 1.02, _single("minilm", 16, 128)),
    Row("attached, nothing active, 12 tiny layers, 8 x 16 / bare", 1.005, _attached),
    Row("training step, pfeiffer, base size, 8 x 64 / floor", 1.03, _trained("pfeiffer")),
    Row("training step, houlsby, base size, 8 x 64 / floor", 1.07, _trained("houlsby")),
    Row("training step, LoRA r 8 on q, v, base size, 8 x 64 / floor", 1.06, _trained("lora")),
    Row("training step, full fine-tuning, base size, 8 x 64 / floor", None, _full),
    Row("32 adapters, 32 rows x 1 token / bare", 1.12, _mixed(32, 32, 1)),
    Row("4 adapters, 32 rows x 1 token / bare", None, _mixed(4, 32, 1)),
    Row("32 LoRA adapters, 32 rows x 1 token / bare", None, _mixed(32, 32, 1, "lora")),
    Row("32 adapters, 32 rows x 8 tokens / bare", 1.05, _mixed(32, 32, 8)),
    Row("32 adapters, 32 rows x 64 tokens / bare", 1.02, _mixed(32, 32, 64)),
    Row("32 adapters, 32 rows, 24 tokens generated / bare", None, _generated(32, "bottleneck")),
    Row("32 LoRA adapters, 32 rows, 24 tokens generated / bare", None, _generated(32, "lora")),
    Row("fusion of 8, inference, 32 x 64 / bare", 1.35, _fused(8, False)),
    Row("fusion of 2, inference, 32 x 64 / bare", None, _fused(2, False)),
    Row("fusion of 8, training, 32 x 64 / floor", 1.5, _fused(8, True)),
    Row("Parallel of 8, 4 x 64 / bare", 6.5, _parallel),
]
