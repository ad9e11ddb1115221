"""Reading and writing checkpoint folders: safetensors, JSON, old pickles behind `weights_only`, and folders that are
either there in full or not at all."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from adapterhub.spec.errors import CheckpointError

__all__ = ["MAX_JSON_BYTES", "read_json", "read_tensors", "write_folder", "write_json", "write_tensors"]

#: No config of an adapter comes near this; larger files are refused before they are parsed.
MAX_JSON_BYTES = 16 * 1024 * 1024

#: Bytes of a cache line, to which torch aligns what it allocates.
_ALIGNMENT = 64


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        CheckpointError: not UTF-8, not JSON, no object at the top, or larger than `MAX_JSON_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES} bytes: no config is.")
        value = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.", hint="Save or download the adapter again.") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}.", hint="Save or download the adapter again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__} where a JSON object belongs.")
    return value


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Name → tensor of a `.safetensors` file, or of a pickled `.bin`/`.pt` state dict.

    A pickle is only ever read by `torch.load(weights_only=True)`, which builds tensors and plain containers and runs no
    code; whatever needs more is refused.

    Raises:
        CheckpointError: truncated, malformed, or a pickle with anything but tensors in it.
    """
    if path.suffix == ".safetensors":
        try:
            return {key: _aligned(tensor) for key, tensor in load_file(path, device=str(device)).items()}
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} is not a readable safetensors file: {error}.", hint="Save or download it again."
            ) from error
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is a pickle with more than tensors in it and is not read: {_first_sentence(error)}",
            hint="Convert it to safetensors where it comes from and you trust it.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {_first_sentence(error)}", hint="Save or download it again."
        ) from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds {type(state).__name__} where a state dict belongs.")
    wrong = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path} holds entries that are not tensors: {wrong[:5]}.")
    return dict(state)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes `tensors` to one safetensors file, keys sorted, each contiguous and on its own storage.

    The header is filled up with blanks so that the data begins at a cache line: most tensors can then be used where the file
    is mapped into memory, without a copy.
    """
    ready = {key: tensors[key].detach().to("cpu").contiguous() for key in sorted(tensors)}
    seen: set[int] = set()
    for key, value in ready.items():
        pointer = value.untyped_storage().data_ptr()
        if pointer in seen or value.untyped_storage().nbytes() != value.nbytes:
            ready[key] = value.clone()
        seen.add(pointer)
    data = save(ready, metadata={"format": "pt", **(metadata or {})})
    length = int.from_bytes(data[:8], "little")
    padding = -(8 + length) % _ALIGNMENT
    with path.open("wb") as file:
        file.write((length + padding).to_bytes(8, "little"))
        file.write(memoryview(data)[8 : 8 + length])
        file.write(b" " * padding)
        file.write(memoryview(data)[8 + length :])


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `value` as UTF-8 JSON people can read, keys in the order given."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


class write_folder:
    """Context manager: fill a temporary sibling folder; on success it takes the place of `target`.

    A folder that holds only files named in `owned` is replaced by one rename. Where other files live in `target`, they
    stay, and the new files replace their forerunners one by one, `last` (the config, which readers look for first) at
    the end; owned files that were not written this time are removed. If the block raises, `target` stays as it was.

    Args:
        target: the folder to write; parents are made.
        owned: names this writer may replace and remove.
        last: the name put in place last.
    """

    def __init__(self, target: str | os.PathLike[str], owned: Iterable[str] = (), last: str = "adapter_config.json"):
        self.target = Path(target).expanduser()
        self.owned = set(owned)
        self.last = last

    def __enter__(self) -> Path:
        if self.target.exists() and not self.target.is_dir():
            raise CheckpointError(f"{self.target} is a file; an adapter is saved to a folder.")
        parent = self.target.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        self._temporary = parent / f".{self.target.name or 'adapter'}-{secrets.token_hex(4)}"
        self._temporary.mkdir()
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._put_in_place()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _put_in_place(self) -> None:
        names = [entry.name for entry in self._temporary.iterdir()]
        if not self.target.exists():
            self._temporary.rename(self.target)
            return
        foreign = [entry.name for entry in self.target.iterdir() if entry.name not in self.owned]
        if not foreign and self.target.absolute() != Path.cwd() and self._swap():
            return
        for name in sorted(names, key=lambda name: name == self.last):
            os.replace(self._temporary / name, self.target / name)
        for name in self.owned - set(names):
            (self.target / name).unlink(missing_ok=True)

    def _swap(self) -> bool:
        """Old folder aside, new one in; False where the file system will not rename (a mount point, say)."""
        aside = self._temporary.with_name(f"{self._temporary.name}-old")
        try:
            os.rename(self.target, aside)
        except OSError:
            return False
        try:
            os.rename(self._temporary, self.target)
        except OSError:
            os.rename(aside, self.target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
        return True


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor at an address torch itself would have chosen: where a file puts it elsewhere, matrix products may round the
    last bit differently, and a reloaded adapter would not give the same logits."""
    if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
        return tensor.clone()
    return tensor


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text.split(". ")[0][:300].rstrip(".") + "."
