"""Table 2 of Pfeiffer et al., 2020 (arXiv:2007.07779): parameters and size of pfeiffer and houlsby adapters.

Builds BERT-base and BERT-large shapes, adds each adapter, and prints its parameters and the size of its compressed
weights beside the figures of the paper.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import tempfile

import workloads

import adapterhub.core as ah

#: (model, reduction factor) → (parameters in millions, megabytes) as printed in the paper, for the larger placement
PAPER = {
    ("base", 64): ("0.2M", "0.9"),
    ("base", 16): ("0.9M", "3.5"),
    ("base", 2): ("7.1M", "28"),
    ("large", 64): ("0.8M", "3.2"),
    ("large", 16): ("3.1M", "13"),
    ("large", 2): ("25.2M", "97"),
}


def measure(shape: str, preset: str, reduction: int) -> tuple[int, int]:
    """(parameters, bytes of the zipped weights) of one adapter."""
    model = workloads.bert(shape)
    ah.init(model)
    model.add_adapter("a", config=f"{preset}[reduction_factor={reduction}]")
    model.train_adapter("a")
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder + "/a", "a")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(Path(folder) / "a" / "adapter.safetensors", "adapter.safetensors")
    return parameters, packed.getbuffer().nbytes


def main() -> None:
    print(f"{'model':6} {'reduction':>9}   {'pfeiffer':>18}   {'houlsby':>18}   {'paper':>14}")
    for (shape, reduction), (parameters, megabytes) in PAPER.items():
        cells = []
        for preset in ("pfeiffer", "houlsby"):
            count, size = measure(shape, preset, reduction)
            cells.append(f"{count / 1e6:6.2f}M {size / 1e6:7.2f} MB")
        print(
            f"{shape:6} {reduction:>9}   {cells[0]:>18}   {cells[1]:>18}   {parameters:>6} {megabytes:>4} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
