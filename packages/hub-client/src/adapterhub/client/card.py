"""The model card of an adapter folder that has none: written from what the folder itself records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapterhub.client.files import write_atomically
from adapterhub.spec.reference import AdapterReference, format_reference

__all__ = ["CARD", "card_text", "write_card"]

#: name of the card's file
CARD = "README.md"
_TRAINING_FIELDS = (
    ("task", "Task"),
    ("dataset", "Data"),
    ("examples", "Training examples"),
    ("epochs", "Epochs"),
    ("steps", "Steps"),
    ("batch_size", "Batch size"),
    ("learning_rate", "Learning rate"),
    ("seed", "Seed"),
)


def write_card(folder: Path, reference: AdapterReference, metadata: Mapping[str, Any]) -> bool:
    """Write the card unless the folder has one. True if it was written."""
    card = folder / CARD
    if not folder.is_dir() or card.exists():
        return False
    config = _read(folder / "adapter_config.json")
    if config is None:
        return False
    try:
        write_atomically(card, card_text(config, _read(folder / "training.json") or {}, reference, metadata).encode())
    except OSError:
        return False  # a folder that cannot be written is published without a card
    return True


def card_text(
    config: Mapping[str, Any], training: Mapping[str, Any], reference: AdapterReference, metadata: Mapping[str, Any]
) -> str:
    """The card in Markdown.

    Args:
        config: adapter_config.json.
        training: training.json, the record a training run leaves; may be empty.
        reference: what it is published as.
        metadata: what the call to publish says.
    """
    base = config.get("base_model") if isinstance(config.get("base_model"), Mapping) else {}
    assert isinstance(base, Mapping)
    inner = config.get("config") if isinstance(config.get("config"), Mapping) else {}
    assert isinstance(inner, Mapping)
    name = reference.path or f"{reference.namespace}/{reference.name}"
    lines = [f"# {_plain(name)}", ""]
    if metadata.get("description"):
        lines += [_plain(str(metadata["description"])), ""]
    lines += [f"An adapter for `{_plain(str(metadata.get('model_name') or base.get('name') or 'unknown'))}`"]
    lines[-1] += f" ({_plain(str(inner.get('method', 'bottleneck')))})."
    text = format_reference(AdapterReference(**{**_fields(reference), "hub": None, "version": None, "digest": None}))
    lines += ["", "```python", "import adapterhub.core as ah", "", "ah.init(model)"]
    lines += [f'model.load_adapter("{text}")', "```", ""]
    rows = [
        (title, training[key]) for key, title in _TRAINING_FIELDS if isinstance(training.get(key), (str, int, float))
    ]
    if rows:
        lines += [
            "## Training",
            "",
            "| | |",
            "|---|---|",
            *(f"| {title} | {_plain(str(value))} |" for title, value in rows),
            "",
        ]
    metrics = [item for item in metadata.get("metrics") or training.get("metrics") or () if isinstance(item, Mapping)]
    if metrics:
        lines += ["## Metrics", "", "| metric | value | data | split |", "|---|---|---|---|"]
        lines += [
            "| " + " | ".join(_plain(str(item.get(key) or "")) for key in ("name", "value", "dataset", "split")) + " |"
            for item in metrics
        ]
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())


def _fields(reference: AdapterReference) -> dict[str, Any]:
    return {name: getattr(reference, name) for name in AdapterReference.__dataclass_fields__}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
