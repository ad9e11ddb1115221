"""A table of the adapters on a model."""

from __future__ import annotations

from typing import Any

from adapterhub.core.plan import names_in
from adapterhub.core.pool import Pool

__all__ = ["summary"]


def summary(pool: Pool, *, as_dict: bool = False) -> str | list[dict[str, Any]]:
    """One line an adapter, the bare model last.

    Returns:
        text, or a list of {"name", "method", "parameters", "percent", "active", "train"}.
    """
    base = [parameter for _, parameter in pool.own_parameters(pool.base_model)]
    total = sum(parameter.numel() for parameter in base)
    active = set(names_in(pool.plan.setup))
    lines: list[dict[str, Any]] = [
        {
            "name": adapter.name,
            "method": adapter.config.method,
            "parameters": adapter.count(),
            "percent": 100 * adapter.count() / max(1, total),
            "active": adapter.name in active,
            "train": adapter.learns(),
        }
        for adapter in pool.adapters.values()
    ]
    lines.append(
        {
            "name": "(model)",
            "method": pool.layout.family,
            "parameters": total,
            "percent": 100.0,
            "active": True,
            "train": any(parameter.requires_grad for parameter in base),
        }
    )
    return lines if as_dict else _table(lines)


def _table(lines: list[dict[str, Any]]) -> str:
    heads = ["name", "method", "parameters", "percent", "active", "train"]
    cells = [
        [line["name"], line["method"], f"{line['parameters']:,}", f"{line['percent']:.3f}", *_flags(line)]
        for line in lines
    ]
    widths = [max(len(row[i]) for row in [heads, *cells]) for i in range(len(heads))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *cells]]
    rule = "-" * len(rows[0])
    return "\n".join([rule, rows[0], rule, *rows[1:], rule])


def _flags(line: dict[str, Any]) -> list[str]:
    return ["yes" if line[name] else "no" for name in ("active", "train")]
