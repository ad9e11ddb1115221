"""Ratios inside one run: the thing and its yardstick alternate, A B A B …, and the median of the pairwise ratios counts."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """The outcome of a paired measurement.

    Attributes:
        ratio: median over the rounds of thing / yardstick.
        low, high: the quartiles of the same.
        thing, yardstick: median seconds of one call.
        rounds: how many pairs counted.
    """

    ratio: float
    low: float
    high: float
    thing: float
    yardstick: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def paired(
    thing: Callable[[], Any],
    yardstick: Callable[[], Any],
    *,
    rounds: int = 15,
    warmup: int = 3,
    seconds_a_round: float = 0.08,
    least: int = 9,
) -> Ratio:
    """Time `thing` against `yardstick`, alternating.

    Args:
        thing, yardstick: calls without arguments.
        rounds: pairs that count, at least `least`.
        warmup: pairs that do not.
        least: 9; fewer give a first impression, not a figure.
        seconds_a_round: each half of a pair repeats its call until about this long, so that short calls are not noise.
    """
    for _ in range(warmup):
        thing()
        yardstick()
    repeats = max(1, round(seconds_a_round / max(_once(yardstick), 1e-7)))
    things, yardsticks = [], []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for position in range(max(least, rounds)):
            halves = [(thing, things), (yardstick, yardsticks)]
            for call, kept in halves if position % 2 == 0 else reversed(halves):
                kept.append(_many(call, repeats))
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()
    ratios = [one / other for one, other in zip(things, yardsticks, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Ratio(middle, low, high, statistics.median(things), statistics.median(yardsticks), len(ratios))


def _once(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _many(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
