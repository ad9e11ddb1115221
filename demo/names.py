"""Short, wrong and ambiguous names, asked through the command line as a user would."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from demo import learning
from demo.hub import Hub, command
from demo.inputs import MODEL_NAME
from demo.report import Report, console
from demo.snippets import Snippet


def _resolve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [command("adapterhub"), "resolve", *arguments, "--model", MODEL_NAME]
    return subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def publish_second(hub: Hub, model_folder: Path, work: Path, train: list[Snippet]) -> None:
    """Publish another adapter of the same task and subtask in another namespace: a short houlsby one, on a tenth of the snippets."""
    import adapterhub.core as ah
    from adapterhub.client import publish

    hub.administer("org", "create", "other")
    token = hub.administer("token", "create", "--org", "other")
    model, tokenizer = learning.stock_model(model_folder, seed=1)
    ah.init(model)
    model.add_adapter("movie-snippets", config="houlsby")
    model.train_adapter("movie-snippets")
    learning.train(model, tokenizer, train[::10], learning.Recipe(epochs=1, seed=1), "training a second adapter")
    model.save_adapter(work / "second", "movie-snippets")
    mine = os.environ["ADAPTERHUB_TOKEN"]
    os.environ["ADAPTERHUB_TOKEN"] = token
    try:
        publish(work / "second", "sentiment/movie-snippets@other", version="1.0")
    finally:
        os.environ["ADAPTERHUB_TOKEN"] = mine


def check(hub: Hub, report: Report, model_folder: Path, work: Path, train: list[Snippet], reference: str) -> list[str]:
    """Claims about names; returns the figures to show."""
    short = _resolve("movie", "--json")
    full_id = json.loads(short.stdout).get("full_id") if short.returncode == 0 else short.stderr
    report.claim(full_id == reference, f"'movie' resolves to {full_id}")

    wrong = _resolve("sentiment/movie-snipets")
    report.claim(
        wrong.returncode == 3 and "sentiment/movie-snippets" in wrong.stderr and "Traceback" not in wrong.stderr,
        "'sentiment/movie-snipets' is not found (status 3), and the message suggests sentiment/movie-snippets",
    )

    publish_second(hub, model_folder, work, train)
    ambiguous = _resolve("movie")
    listed = all(f"sentiment/movie-snippets@{ns}" in ambiguous.stderr for ns in ("demo", "other"))
    report.claim(
        ambiguous.returncode == 4 and listed and "Traceback" not in ambiguous.stderr,
        "with a second adapter of that name, 'movie' is ambiguous (status 4) and both candidates are listed",
    )
    if not listed:
        console.print(f"  status {ambiguous.returncode}: {ambiguous.stdout}{ambiguous.stderr}")
    return ["movie → " + str(full_id)]
