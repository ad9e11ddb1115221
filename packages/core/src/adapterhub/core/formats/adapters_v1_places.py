"""Where a model keeps things in the layout of adapter-transformers and adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["VERSION", "LegacyPlaces"]

#: The release whose format is written.
VERSION = "adapters.1.3.0"


@dataclass(frozen=True, slots=True)
class LegacyPlaces:
    """Where a model keeps things in their layout.

    Args:
        hosts: module path → neutral slot (`encoder.layer.3.output` → `encoder.3.ffn`), without base-model prefix.
        embedding: neutral slot of the embedding, or empty where the family has none.
        embedding_host: module path that holds their `invertible_adapters` (empty: the base model itself).
        prefix: base-model prefix when the model has a head, else empty.
        model_class: name of the model's class.
        model_name: id of the base model.
        model_type: `model_type` of its config.
        hidden_size: its width.
        towers: names of its towers, the encoder first.
    """

    hosts: Mapping[str, str]
    embedding: str
    embedding_host: str
    prefix: str
    model_class: str
    model_name: str | None
    model_type: str
    hidden_size: int
    towers: tuple[str, ...]

    def slots(self) -> dict[str, str]:
        """Neutral slot → module path: `hosts` turned round, with the embedding."""
        turned: dict[str, str] = {}
        for path, slot in self.hosts.items():
            turned.setdefault(slot, path)
        if self.embedding:
            turned[self.embedding] = self.embedding_host
        return turned

    def context(self) -> dict[str, Any]:
        """The members all their config files share."""
        return {
            "hidden_size": self.hidden_size,
            "model_class": self.model_class,
            "model_name": self.model_name,
            "model_type": self.model_type,
            "version": VERSION,
        }
