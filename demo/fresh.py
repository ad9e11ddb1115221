"""Run in a process of its own: a stock model, one adapter by its reference, and the logits of the test snippets.

    python -m demo.fresh MODEL SDIST REFERENCE LOGITS

Nothing is taken over from the training process: the head is drawn from another seed, so right answers can only come with the adapter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import transformers
from safetensors.torch import save_file

import adapterhub.core as ah
from adapterhub.spec import AdapterHubError
from demo import inputs, learning, snippets
from demo.report import console


def main(model_folder: Path, sdist: Path, reference: str, target: Path) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _, test = snippets.split(snippets.parse(inputs.read_snippets(sdist)))
    model, tokenizer = learning.stock_model(model_folder, seed=12345)
    ah.init(model)
    name = model.load_adapter(reference)
    model.active_adapters = name
    logits = learning.predict(model, tokenizer, test, "predicting")
    save_file({"logits": logits}, target)
    console.print(f"  loaded {reference} as {name!r}: test accuracy {learning.accuracy(logits, test):.3f}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    except AdapterHubError as error:
        sys.exit(f"{type(error).__name__}: {error}")
