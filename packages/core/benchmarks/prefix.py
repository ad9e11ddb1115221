"""Training with adapters in the upper half of the layers only: ours with the frozen-prefix cache, ours without, and `adapters`.

    python packages/core/benchmarks/prefix.py [--peer PYTHON] [--rounds 9] [--examples 64]

Each library trains in a process of its own (`adapters` in its own environment), which stays up and waits; the processes take turns,
so that a figure is the median of ratios of neighbours in time. A run is five epochs over the same examples from the same start:
forward, loss, backward, AdamW. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

EPOCHS, ROWS, LENGTH = 5, 16, 64
GOAL = 0.6


def trained(library: str) -> tuple[Any, Callable[[], Any]]:
    """A MiniLM-size classifier with an adapter in each of the upper three layers, ready to train, and the cache it runs under."""
    import torch
    import workloads
    from transformers import BertForSequenceClassification

    torch.manual_seed(workloads.SEED)
    model = BertForSequenceClassification(workloads.bert("minilm").config)
    lower = list(range(model.config.num_hidden_layers // 2))
    if library == "adapters":
        import adapters

        adapters.init(model)
        model.add_adapter("a", config=adapters.SeqBnConfig(leave_out=lower))
        model.train_adapter("a")
        return model, nullcontext
    import adapterhub.core as ah
    from adapterhub.core.training import PrefixCache

    ah.init(model)
    model.add_adapter("a", config="pfeiffer", leave_out=lower)
    model.train_adapter("a")
    return model, (lambda: PrefixCache(model)) if library == "cached" else nullcontext


def work(library: str, examples: int) -> None:
    """The worker: for each line of standard input one run, whose seconds and last loss it prints."""
    import torch
    import workloads

    torch.set_num_threads(2)
    model, cache = trained(library)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in parameters]
    text = workloads.tokens(examples, LENGTH)
    labels = torch.arange(examples) % 2
    batches = [slice(first, first + ROWS) for first in range(0, examples, ROWS)]
    for _ in sys.stdin:
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        model.train()
        begun = time.perf_counter()
        with cache():
            for _ in range(EPOCHS):
                for batch in batches:
                    inputs = {name: value[batch] for name, value in text.items()}
                    loss = model(**inputs, labels=labels[batch]).loss
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
        print(json.dumps({"seconds": time.perf_counter() - begun, "loss": float(loss.detach())}), flush=True)


class Worker:
    """One library in its own process."""

    def __init__(self, python: str | Path, library: str, examples: int) -> None:
        command = [str(python), __file__, "--work", library, "--examples", str(examples)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self) -> float:
        """Of one run."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('{"seconds"'):
                return float(json.loads(line)["seconds"])
        raise RuntimeError("a worker of the benchmark ended")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(peer: str | Path | None, rounds: int, examples: int) -> dict[str, dict[str, Any]]:
    """The rows: our cached training over that of `adapters` (where there is its Python), and over our own without cache."""
    workers = {"cached": Worker(sys.executable, "cached", examples), "plain": Worker(sys.executable, "plain", examples)}
    if peer is not None:
        workers["adapters"] = Worker(peer, "adapters", examples)
    taken: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for worker in workers.values():
            worker.seconds()
        for position in range(rounds):
            for name in workers if position % 2 == 0 else reversed(list(workers)):
                taken[name].append(workers[name].seconds())
    finally:
        for worker in workers.values():
            worker.close()
    named = {"adapters": ("adapters 1.3", GOAL), "plain": ("the same without cache", None)}
    found = {}
    for other, (title, goal) in named.items():
        if other in taken:
            ratios = [one / two for one, two in zip(taken["cached"], taken[other], strict=True)]
            found[f"upper half, {EPOCHS} epochs, with cache / {title}"] = {
                "ratio": statistics.median(ratios),
                "thing": statistics.median(taken["cached"]),
                "yardstick": statistics.median(taken[other]),
                "rounds": rounds,
                "goal": goal,
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of the environment of `adapters`; without it that row is left out")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--work", choices=("cached", "plain", "adapters"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.examples)
        return
    rows = measure(arguments.peer, arguments.rounds, arguments.examples)
    print(json.dumps({"library": "adapterhub", "rows": rows}))


if __name__ == "__main__":
    main()
