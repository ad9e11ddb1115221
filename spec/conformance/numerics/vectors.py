"""What the generator is made of: numbers from seeds, groups of cases with their tensors, and the surroundings of a site."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import reference as ref

HIDDEN, SIZE, ROWS, TOKENS = 8, 4, 2, 3


class Numbers:
    """float32 numbers from a fixed seed, as float64 arrays."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> ref.Array:
        numbers = self.generator.normal(shift, scale, shape).astype(np.float32)
        return numbers.astype(np.float64)


class Group:
    """The cases of one file and their tensors. Equal tensors are stored once."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.cases: list[dict[str, Any]] = []
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}
        self._known: dict[tuple[bytes, tuple[int, ...]], str] = {}

    def add(
        self,
        name: str,
        config: Mapping[str, Any],
        weights: Mapping[str, ref.Array],
        inputs: Mapping[str, Any],
        outputs: Mapping[str, ref.Array],
        **more: Any,
    ) -> None:
        self.cases.append(
            {
                "name": name,
                "config": dict(config),
                **more,
                "weights": {key: self._keep(f"weights/{key}", value) for key, value in weights.items()},
                "inputs": {key: self._keep(f"inputs/{key}", value) for key, value in inputs.items()},
                "outputs": {key: self._keep(f"{name}/{key}", value) for key, value in outputs.items()},
            }
        )

    def _keep(self, key: str, value: Any) -> str:
        array = np.array(value, dtype=np.uint8 if value.dtype == bool else np.float32, order="C")
        identity = (array.tobytes() + array.dtype.char.encode(), array.shape)
        known = self._known.get(identity)
        if known is not None:
            return known
        stored, number = key, 2
        while stored in self.tensors:
            stored, number = f"{key}.{number}", number + 1
        self.tensors[stored] = array
        self._known[identity] = stored
        return stored

    def write(self, folder: Path) -> None:
        header = {"title": self.title, "tensors": f"{self.name}.safetensors", "tolerance": 1e-5}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
        cases = ",\n".join(f"    {json.dumps(case, sort_keys=True)}" for case in self.cases)
        text = "{\n" + ",\n".join(lines) + ',\n  "cases": [\n' + cases + "\n  ]\n}\n"
        (folder / f"{self.name}.json").write_text(text, encoding="utf-8")
        (folder / f"{self.name}.safetensors").write_bytes(safetensors(self.tensors))


def safetensors(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """The bytes of a safetensors file."""
    header: dict[str, Any] = {}
    parts, at = [], 0
    for name, array in tensors.items():
        data = array.tobytes()
        header[name] = {
            "dtype": {"f": "F32", "B": "U8"}[array.dtype.char],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(data)],
        }
        parts.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


class Surroundings:
    """(h, r) and the model's norm, the same in all cases of a group."""

    def __init__(self, draw: Numbers) -> None:
        self.h, self.r = draw(ROWS, TOKENS, HIDDEN), draw(ROWS, TOKENS, HIDDEN)
        self.weight, self.bias = draw(HIDDEN, scale=0.3, shift=1), draw(HIDDEN, scale=0.3)
        self.epsilon = 1e-12

    def norm(self, kind: str | None) -> ref.Norm | None:
        return ref.Norm(self.weight, self.bias, self.epsilon) if kind == "layer_norm" else None

    def inputs(self, kind: str | None) -> dict[str, ref.Array]:
        inputs = {"h": self.h, "r": self.r}
        return inputs | ({"norm.weight": self.weight, "norm.bias": self.bias} if kind else {})

    def extra(self, kind: str | None) -> dict[str, Any]:
        return {"norm": {"kind": kind, "epsilon": self.epsilon} if kind else None}
