"""Which model types of transformers take adapters: every type, tiny and random, through the whole contract.

    python packages/core/benchmarks/census.py [--only bert,t5] [--write docs/reference/models.md] [--json census.json]

The contract: attaching changes no bit; add a bottleneck; train a step, and nothing of the base moves; save; load into a
fresh model; the same output; stack; fuse; detach gives the stock model back. A type passes, is refused with a
reason by `init`, or fails. Types run in a worker process that is replaced when one of them kills it or takes too long.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

SECONDS_A_TYPE = 120


def contract(model_type: str) -> dict[str, Any]:
    """Run the contract on one type; the outcome as JSON."""
    import torch
    from packages.core.tests.shrunken import shrunken

    import adapterhub.core as ah
    from adapterhub.core.checking import quiet
    from adapterhub.core.dummy import run_small
    from adapterhub.spec import UnsupportedModelError
    from adapterhub.spec.family import families_of, load_family

    fitting = families_of(model_type)
    fixed = load_family(fitting[-1].family).when if fitting else {}
    try:
        stock = shrunken(model_type, **fixed)
        with quiet(stock):
            inputs = run_small(stock, rows=2)
        bare = _output(stock, inputs)
    except Exception as error:  # noqa: BLE001 - whatever a model of another library raises
        return {"outcome": "not built", "reason": _line(error)}
    keys = list(stock.state_dict())
    parameters = {name: value.clone() for name, value in stock.state_dict().items()}
    try:
        model = ah.init(stock)
    except UnsupportedModelError as error:
        return {"outcome": "refused", "reason": _line(error)}
    steps = []
    try:
        assert torch.equal(_output(model, inputs), bare), "attaching changed the output"
        steps.append("attach")
        model.add_adapter("a", config="houlsby[reduction_factor=8,cross_adapter=true]")
        model.add_adapter("b", config="pfeiffer[reduction_factor=8,mh_adapter=true]")
        for name in "ab":
            for parameter in model.get_adapter(name).values():
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        model.train_adapter("a")
        model.eval()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        _tensor(model(**inputs)).float().pow(2).mean().backward()
        assert any(parameter.grad is not None for parameter in trained), "no adapter got a gradient"
        optimizer.step()
        for name, value in model.state_dict().items():
            assert name not in parameters or torch.equal(value, parameters[name]), f"training moved {name}"
        steps.append("train")
        adapted = _output(model, inputs)
        assert not torch.equal(adapted, bare), "the adapter changes nothing"
        with tempfile.TemporaryDirectory() as folder:
            model.save_adapter(f"{folder}/a", "a")
            fresh = ah.init(shrunken(model_type, **fixed))
            fresh.load_adapter(f"{folder}/a")
            fresh.set_active_adapters("a")
            again = _output(fresh, inputs)
            assert torch.allclose(again, adapted, rtol=1e-5, atol=1e-6), "the loaded adapter gives another output"
        steps.append("save and load")
        model.set_active_adapters(ah.Stack("a", "b"))
        assert torch.isfinite(_output(model, inputs)).all() and not torch.equal(_output(model, inputs), adapted)
        steps.append("stack")
        model.add_adapter_fusion(["a", "b"])
        model.set_active_adapters(ah.Fuse("a", "b"))
        assert torch.isfinite(_output(model, inputs)).all() and not torch.equal(_output(model, inputs), adapted)
        steps.append("fuse")
        family = ah.pool_of(model).layout.family
        ah.detach(model)
        assert list(model.state_dict()) == keys and torch.equal(_output(model, inputs), bare), "detach left a trace"
    except Exception as error:  # noqa: BLE001 - the census tells, it does not stop
        return {"outcome": "failed", "reason": f"after {', '.join(steps) or 'init'}: {_line(error)}"}
    return {"outcome": "passed", "family": family}


def _output(model: Any, inputs: Any) -> Any:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        return _tensor(model(**inputs))


def _tensor(output: Any) -> Any:
    """All numbers of an output in one row: a model of several towers says with each what it saw."""
    import torch

    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    values = [values] if isinstance(values, torch.Tensor) else values
    found = [
        value.reshape(-1).float() for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    return torch.cat(found)


def _line(error: BaseException) -> str:
    """The error on one line, without the places of files, which differ from machine to machine."""
    text = re.sub(r"(/[\w.+-]+){2,}/?", "…", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:240]


def work(types: list[str]) -> None:
    """The worker: one JSON line a type."""
    import resource

    import transformers

    resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    for model_type in types:
        print(json.dumps({"begin": model_type}), flush=True)
        signal.alarm(SECONDS_A_TYPE)
        start = time.perf_counter()
        try:
            outcome = contract(model_type)
        except TimeoutError as error:
            outcome = {"outcome": "not built", "reason": str(error)}
        signal.alarm(0)
        print(json.dumps({"type": model_type, "seconds": time.perf_counter() - start, **outcome}), flush=True)


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS_A_TYPE} seconds: the tiny config is not tiny")


def survey(types: list[str]) -> dict[str, dict[str, Any]]:
    """All types, with a new worker whenever one dies."""
    from tqdm import tqdm

    found: dict[str, dict[str, Any]] = {}
    waiting = list(types)
    with tqdm(total=len(types), unit="type") as bar:
        while waiting:
            arguments = [sys.executable, __file__, "--work", ",".join(waiting)]
            begun = None
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
                assert worker.stdout is not None
                for line in worker.stdout:
                    if not line.startswith("{"):
                        continue
                    told = json.loads(line)
                    if "begin" in told:
                        begun = told["begin"]
                        continue
                    found[told.pop("type")] = told
                    bar.update()
            if begun is not None and begun not in found:
                found[begun] = {"outcome": "not built", "reason": "the process ended (memory)"}
                bar.update()
            waiting = [model_type for model_type in waiting if model_type not in found]
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The census as Markdown."""
    import transformers

    counts = {outcome: sum(one["outcome"] == outcome for one in found.values()) for outcome in OUTCOMES}
    built = len(found) - counts["not built"]
    lines = [
        "# Models",
        "",
        "Any transformer whose sublayers can be found and verified takes adapters: by a family file of the spec, or by",
        "discovery from one small forward. This census runs every model type of transformers through the whole contract on a",
        "tiny random model: attach, train a step, save, load into a fresh model, stack, fuse, detach.",
        "",
        f"Made by `packages/core/benchmarks/census.py` with transformers {transformers.__version__}: of {len(found)} model",
        f"types **{counts['passed']} pass**, {counts['refused']} are refused, {counts['failed']} fail; {counts['not built']}",
        f"could not be built small from their default config, so that {built} were looked at.",
        "",
        "A model that is refused can be taught with a family file: see `spec/families` for examples and pass yours as",
        "`ah.init(model, family=ModelFamily.from_file(path))`.",
        "",
        "| model type | outcome | by |",
        "|---|---|---|",
    ]
    for model_type, one in sorted(found.items()):
        if one["outcome"] == "passed":
            lines.append(f"| {model_type} | passed | {one['family']} |")
    lines += ["", "## Refused, failed, not built", "", "| model type | outcome | reason |", "|---|---|---|"]
    for model_type, one in sorted(found.items(), key=lambda item: (OUTCOMES.index(item[1]["outcome"]), item[0])):
        if one["outcome"] != "passed":
            lines.append(f"| {model_type} | {one['outcome']} | {one['reason'].replace('|', '/')} |")
    return "\n".join(lines) + "\n"


OUTCOMES = ["passed", "refused", "failed", "not built"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="model types, with commas between")
    parser.add_argument("--write", type=Path, help="write the table there")
    parser.add_argument("--json", type=Path, help="write the outcomes there")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work.split(","))
        return
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    types = arguments.only.split(",") if arguments.only else sorted(MODEL_MAPPING_NAMES)
    found = survey(types)
    for outcome in OUTCOMES:
        names = sorted(model_type for model_type, one in found.items() if one["outcome"] == outcome)
        print(f"{outcome}: {len(names)}")
    if arguments.only:
        print(json.dumps(found, indent=1))
    if arguments.write:
        arguments.write.write_text(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
