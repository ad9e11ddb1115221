"""PEFT as the benchmark rows ask for it: it has no bottleneck adapters, so LoRA r 8 on q and v stands in."""

from __future__ import annotations

from typing import Any

import peft
import torch


class PeftLibrary:
    """The rows PEFT can take part in."""

    name = f"peft {peft.__version__} (LoRA r 8)"

    def _config(self) -> Any:
        return peft.LoraConfig(r=8, lora_alpha=8, target_modules=["query", "value"])

    def attached(self, model: torch.nn.Module) -> None:
        return None

    def single(self, model: torch.nn.Module, config: str) -> torch.nn.Module:
        return peft.get_peft_model(model, self._config(), adapter_name="a")

    def trained(self, model: torch.nn.Module, config: str) -> torch.nn.Module | None:
        return None if config == "houlsby" else self.single(model, config)

    def mixed(self, model: torch.nn.Module, names: list[str], config: str) -> tuple[torch.nn.Module, dict[str, Any]]:
        kinds = list(dict.fromkeys(names))
        wrapped = peft.get_peft_model(model, self._config(), adapter_name=kinds[0])
        for name in kinds[1:]:
            wrapped.add_adapter(name, self._config())
        return wrapped, {"adapter_names": names}

    def fused(self, model: torch.nn.Module, count: int, train: bool) -> None:
        return None

    def parallel(self, model: torch.nn.Module, count: int) -> None:
        return None


library = PeftLibrary()
