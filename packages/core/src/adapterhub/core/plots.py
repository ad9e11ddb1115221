"""Pictures: the curve of a training run, what a fusion attends to, how large adapters are. They need matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.spec.errors import AdapterHubError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["plot_curve", "plot_fusion_attention", "plot_sizes"]


def plot_curve(
    losses: Sequence[float],
    epochs: Sequence[Mapping[str, float]],
    path: str | os.PathLike[str],
    *,
    metric: str | None = None,
    title: str = "",
) -> Path:
    """The loss of every step (thin), its running mean (thick), and a measure after every epoch, as a PNG.

    Args:
        losses: one a step.
        epochs: the measures after each epoch; `metric` picks one.

    Raises:
        AdapterHubError: matplotlib is not installed.
    """
    figure, left = _figure()
    steps = range(1, len(losses) + 1)
    left.plot(steps, losses, color="#9db8d9", linewidth=0.8)
    left.plot(steps, _running(losses), color="#1f5fa8", linewidth=1.8, label="training loss")
    left.set_xlabel("step")
    left.set_ylabel("loss")
    values = [measured[metric] for measured in epochs if metric in measured] if metric is not None else []
    if values:
        each = len(losses) / len(values)
        right = left.twinx()
        right.plot(
            [each * (n + 1) for n in range(len(values))], values, "o-", color="#c4572b", label=f"validation {metric}"
        )
        right.set_ylabel(str(metric))
        lines = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        left.legend(lines, [str(line.get_label()) for line in lines], loc="upper center", frameon=False, ncols=2)
    if title:
        left.set_title(title)
    return _save(figure, path)


def plot_fusion_attention(
    maps: Mapping[str, Sequence[Tensor]], names: Sequence[str], path: str | os.PathLike[str]
) -> Path:
    """Mean attention to each adapter at each site, as a PNG.

    Args:
        maps: site key → attention [B, T, N] of each call, as `fusion_attention()` collects it.
        names: the N adapters.
    """
    sites = list(maps)
    rows = [sum(part.float().mean((0, 1)) for part in maps[site]) / len(maps[site]) for site in sites]
    figure, axes = _figure(height=1.2 + 0.3 * len(sites))
    image = axes.imshow([row.tolist() for row in rows], vmin=0, vmax=1, cmap="viridis", aspect="auto")  # type: ignore[union-attr]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(sites)), sites)
    figure.colorbar(image, label="mean attention")
    return _save(figure, path)


def plot_sizes(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Parameters of every adapter of a model beside those of the model, on a logarithmic axis, as a PNG."""
    from adapterhub.core.pool import pool_of

    pool = pool_of(model)
    sizes: dict[str, int] = {"the model": sum(p.numel() for _, p in pool.own_parameters(model))}
    sizes |= {name: adapter.count() for name, adapter in pool.adapters.items()}
    figure, axes = _figure(height=1.2 + 0.35 * len(sizes))
    axes.barh(list(sizes), list(sizes.values()), color=["#777777", *["#1f5fa8"] * (len(sizes) - 1)])
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.invert_yaxis()
    return _save(figure, path)


def _figure(height: float = 4.0) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AdapterHubError(
            "Pictures need matplotlib.", hint="Run `pip install 'adapterhub-core[plots]'`."
        ) from error
    figure = Figure(figsize=(7.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120, format="png", metadata={"Software": "adapterhub-core"})
    return target


def _running(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential mean, corrected for its start."""
    mean, found = 0.0, []
    for number, value in enumerate(values, 1):
        mean = keep * mean + (1 - keep) * value
        found.append(mean / (1 - keep**number))
    return found
