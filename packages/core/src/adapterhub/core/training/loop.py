"""A plain training loop: AdamW, a rate that rises and falls linearly, the best epoch kept. What the command line runs."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.core.training.decay import decays
from adapterhub.core.training.prefix_cache import cached_prefix
from adapterhub.core.training.tasks import Task
from adapterhub.spec.errors import AdapterHubError, InvalidConfigError

__all__ = ["Recipe", "TrainingResult", "batches_of", "evaluate", "fit", "progress"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train."""

    epochs: int = 3
    learning_rate: float = 1e-3
    batch_size: int = 32
    weight_decay: float = 0.01
    warmup: float = 0.06
    clip: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class TrainingResult:
    """What a run gave: the loss of every step, the measures of every epoch, and which epoch was kept."""

    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def fit(
    model: Any,
    task: Task,
    train: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]] = (),
    recipe: Recipe = Recipe(),
    *,
    device: str | torch.device = "cpu",
    bar: bool | None = None,
    prefix_cache: bool | str | os.PathLike[str] = False,
) -> TrainingResult:
    """Trains what asks for gradients, measures after every epoch, and leaves the model with its best epoch.

    Args:
        model: after `train_adapter`.
        task: makes batches and measures.
        train, validation: encoded rows (`Task.encode`); without validation the last epoch is kept.
        bar: whether a progress bar is shown on standard error; by default unless ADAPTERHUB_DISABLE_PROGRESS_BARS is set.
        prefix_cache: compute the layers below the first that trains once for every example (see `PrefixCache`); a folder
            keeps the results in a file there.

    Raises:
        InvalidConfigError: nothing asks for gradients, or there are no rows.
        AdapterHubError: the loss became infinite or NaN.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained or not train:
        raise InvalidConfigError("There is nothing to train." if not trained else "There are no rows to train on.")
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)
    source = random.Random(recipe.seed)
    model.to(device)
    groups = [
        {"params": [p for name, p in trained if decays(name, p)], "weight_decay": recipe.weight_decay},
        {"params": [p for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.learning_rate)
    steps = recipe.epochs * -(-len(train) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_then_down(steps, recipe.warmup))
    result, best, kept = TrainingResult(), None, {}
    with cached_prefix(model, prefix_cache), progress(steps, "training", bar) as advance:
        for epoch in range(recipe.epochs):
            model.train()
            generator = torch.Generator().manual_seed(recipe.seed * 1009 + epoch)
            for items in batches_of(train, recipe.batch_size, source):
                batch = {key: value.to(device) for key, value in task.batch(items, generator).items()}
                loss = model(**batch).loss
                value = float(loss.detach())
                if value != value or value in (float("inf"), float("-inf")):
                    raise AdapterHubError(
                        f"The loss became {value} in step {len(result.losses) + 1}.",
                        hint="Try a lower --learning-rate.",
                    )
                loss.backward()
                nn.utils.clip_grad_norm_([p for _, p in trained], recipe.clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                result.losses.append(value)
                advance(loss=value)
            if validation:
                measured = evaluate(model, task, validation, recipe.batch_size, device=device, bar=bar)
                result.epochs.append(measured)
                score = -measured[task.main_metric] if task.lower_is_better else measured[task.main_metric]
                if best is None or score > best:
                    best, result.best_epoch = score, epoch
                    kept = {name: p.detach().clone() for name, p in trained}
    with torch.no_grad():
        for name, p in trained:
            if name in kept:
                p.copy_(kept[name])
    model.eval()
    result.seconds = time.perf_counter() - started
    return result


@torch.no_grad()
def evaluate(
    model: Any,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int = 32,
    *,
    device: str | torch.device = "cpu",
    bar: bool | None = None,
) -> dict[str, float]:
    """The measures of `task` over encoded rows with labels. Masked tokens are the same on every call."""
    model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    logits: list[Tensor] = []
    seen: list[dict[str, Tensor]] = []
    losses: list[float] = []
    with progress(-(-len(rows) // batch_size), "measuring", bar) as advance:
        for items in batches_of(rows, batch_size):
            batch = task.batch(items, generator)
            output = model(**{key: value.to(device) for key, value in batch.items()})
            losses.append(float(output.loss))
            seen.append({"labels": batch["labels"]})
            logits.append(torch.zeros(0) if task.main_metric == "perplexity" else output.logits.float().cpu())
            advance()
    return task.measure(logits, seen, losses)


def batches_of(
    rows: Sequence[Mapping[str, Any]], size: int, source: random.Random | None = None
) -> Iterator[list[Mapping[str, Any]]]:
    """Batches in order; with `source` shuffled, rows of like length together, so that little is computed on padding."""
    order = list(range(len(rows)))
    if source is not None:
        source.shuffle(order)
        chunk = size * 16
        order = [
            index
            for start in range(0, len(order), chunk)
            for index in sorted(order[start : start + chunk], key=lambda i: len(rows[i]["input_ids"]))
        ]
    cuts = [order[start : start + size] for start in range(0, len(order), size)]
    if source is not None:
        source.shuffle(cuts)
    for cut in cuts:
        yield [rows[index] for index in cut]


class progress:
    """Context manager: a bar on standard error that `advance(**shown)` moves."""

    def __init__(self, total: int, title: str, show: bool | None = None) -> None:
        self.total, self.title = total, title
        self.show = not os.environ.get("ADAPTERHUB_DISABLE_PROGRESS_BARS") if show is None else show

    def __enter__(self) -> Callable[..., None]:
        from tqdm import tqdm

        self.bar = tqdm(total=self.total, desc=self.title, disable=not self.show, leave=False, dynamic_ncols=True)

        def advance(**shown: float) -> None:
            if shown:
                self.bar.set_postfix({key: f"{value:.4f}" for key, value in shown.items()}, refresh=False)
            self.bar.update()

        return advance

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def _warm_then_down(steps: int, share: float) -> Callable[[int], float]:
    rise = max(1, int(share * steps))
    return lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))
