"""The `adapters` library as the benchmark rows ask for it; runs in the peers' own environment."""

from __future__ import annotations

from typing import Any

import adapters
import adapters.composition as composition
import torch

CONFIGS = {"bottleneck": "seq_bn", "pfeiffer": "seq_bn", "houlsby": "double_seq_bn", "lora": "lora"}


class AdaptersLibrary:
    """Every row of the table with `adapters`."""

    name = f"adapters {adapters.__version__}"

    def attached(self, model: torch.nn.Module) -> torch.nn.Module:
        adapters.init(model)
        return model

    def single(self, model: torch.nn.Module, config: str) -> torch.nn.Module:
        adapters.init(model)
        model.add_adapter("a", config=CONFIGS[config], set_active=True)
        return model

    def trained(self, model: torch.nn.Module, config: str) -> torch.nn.Module:
        self.single(model, config)
        model.train_adapter("a")
        return model

    def mixed(self, model: torch.nn.Module, names: list[str], config: str) -> tuple[torch.nn.Module, dict[str, Any]]:
        adapters.init(model)
        kinds = list(dict.fromkeys(names))
        for name in kinds:
            model.add_adapter(name, config=CONFIGS[config])
        model.active_adapters = composition.BatchSplit(*kinds, batch_sizes=[names.count(name) for name in kinds])
        return model, {}

    def fused(self, model: torch.nn.Module, count: int, train: bool) -> torch.nn.Module:
        adapters.init(model)
        names = [f"a{position}" for position in range(count)]
        for name in names:
            model.add_adapter(name, config="seq_bn")
        model.add_adapter_fusion(names)
        model.active_adapters = composition.Fuse(*names)
        if train:
            model.train_adapter_fusion(composition.Fuse(*names))
        return model

    def parallel(self, model: torch.nn.Module, count: int) -> torch.nn.Module:
        adapters.init(model)
        names = [f"a{position}" for position in range(count)]
        for name in names:
            model.add_adapter(name, config="seq_bn")
        model.active_adapters = composition.Parallel(*names)
        return model


library = AdaptersLibrary()
