"""adapterhub-core, as the benchmark rows ask for it."""

from __future__ import annotations

from typing import Any

import torch

import adapterhub.core as ah

CONFIGS = {"bottleneck": "pfeiffer", "pfeiffer": "pfeiffer", "houlsby": "houlsby", "lora": "lora"}


class Ours:
    """Every row of the table with adapterhub-core."""

    name = "adapterhub"

    def attached(self, model: torch.nn.Module) -> torch.nn.Module:
        return ah.init(model)

    def single(self, model: torch.nn.Module, config: str) -> torch.nn.Module:
        ah.init(model)
        model.add_adapter("a", config=CONFIGS[config])
        model.active_adapters = "a"
        return model

    def trained(self, model: torch.nn.Module, config: str) -> torch.nn.Module:
        self.single(model, config)
        model.train_adapter("a")
        return model

    def mixed(self, model: torch.nn.Module, names: list[str], config: str) -> tuple[torch.nn.Module, dict[str, Any]]:
        ah.init(model)
        for name in dict.fromkeys(names):
            model.add_adapter(name, config=CONFIGS[config])
        return model, {"adapter_names": names}

    def fused(self, model: torch.nn.Module, count: int, train: bool) -> torch.nn.Module:
        ah.init(model)
        names = [f"a{position}" for position in range(count)]
        for name in names:
            model.add_adapter(name, config="pfeiffer")
        model.add_adapter_fusion(names)
        model.active_adapters = ah.Fuse(*names)
        if train:
            model.train_adapter_fusion(ah.Fuse(*names))
        return model

    def parallel(self, model: torch.nn.Module, count: int) -> torch.nn.Module:
        ah.init(model)
        names = [f"a{position}" for position in range(count)]
        for name in names:
            model.add_adapter(name, config="pfeiffer")
        model.active_adapters = ah.Parallel(*names)
        return model
