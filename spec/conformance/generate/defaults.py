"""The defaults of every method (SPEC.md 9.2), from the config models, as `spec/defaults.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from adapterhub.spec.config import validated

METHODS = ("bottleneck", "lora", "ia3", "prefix", "prompt", "reft")


def document() -> dict[str, Any]:
    return {method: validated({"method": method}).expand() for method in METHODS}


def main(file: Path = Path(__file__).resolve().parents[2] / "defaults.json") -> None:
    file.write_text(json.dumps(document(), indent=2) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
