"""`BertAdapterModel`, `LlamaAdapterModel`, …: for every bare class of transformers one with flexible heads, made on demand.

Pickle and copies find the generated classes here by their names.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if not name.endswith("AdapterModel") or name.startswith("_") or name == "AdapterModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import transformers

    from adapterhub.core.heads.flexible import adapter_model_class

    bare = getattr(transformers, f"{name.removesuffix('AdapterModel')}Model", None)
    if bare is None:
        raise AttributeError(f"transformers has no {name.removesuffix('AdapterModel')}Model to put heads on")
    return adapter_model_class(bare)
