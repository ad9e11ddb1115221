"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Config", "Json", "Model", "Source", "Type", "Version"]

Model = Annotated[str | None, typer.Option("--model", "-m", help="Base model, such as bert-base-uncased.")]
Config = Annotated[
    str | None, typer.Option("--config", "-c", help="Only adapters of this config: a preset's name or a JSON object.")
]
Version = Annotated[str | None, typer.Option("--version", help="Version; the same as :version in the reference.")]
Type = Annotated[str | None, typer.Option("--type", help="Only adapters of this type: text_task, text_lang, …")]
Source = Annotated[
    str | None, typer.Option("--source", "-s", help="Hub to ask: ah, hf, or the name of a configured one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
