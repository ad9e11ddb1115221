"""The commands of core, as a user runs them: real data files, a real (tiny) model with a tokenizer."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapterhub.core.cli import main
from adapterhub.core.training import metrics
from adapterhub.core.training.data import read_rows, split_rows
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.validation.adapter_folder import folder_problems

GOOD, BAD = ["warm", "funny", "great", "moving"], ["dull", "boring", "awful", "clumsy"]


def write_tokenizer_and_model(folder: Path, kind: str = "bert") -> Path:
    import transformers
    from packages.core.tests.small_models import write_model
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *GOOD, *BAD, "film", "a", "the", "in", "Paris", "Berlin", "said", "she", "one", "two"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    if kind != "bert":
        names["eos_token"] = "[SEP]"
    write_model(folder, kind)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer_and_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERHUB_DISABLE_PROGRESS_BARS", "1")


def texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        words = GOOD if number % 2 else BAD
        chosen = [words[int(i)] for i in torch.randint(4, (3,), generator=generator)]
        made.append((" ".join(["a", *chosen, "film"]), "good" if number % 2 else "bad"))
    return made


def write_csv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_train_eval_predict_and_what_a_run_leaves(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_csv(tmp_path / "train.csv", texts(100))
    test = write_csv(tmp_path / "test.csv", texts(40, seed=9))
    out = tmp_path / "out" / "mood"
    code, printed, told = run(
        capsys, "train", base, data, "-o", out, "--epochs", 8, "--lr", 1e-2, "--batch-size", 8, "--model-name", "me/tiny",
        "-c", "houlsby[reduction_factor=2]", "--json",
    )  # fmt: skip
    assert code == 0, told
    report = json.loads(printed)
    assert report["metrics"]["accuracy"] > 0.9 and report["rows"]["train"] + report["rows"]["validation"] == 100
    assert report == json.loads((out / "metrics.json").read_text())
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert folder_problems(out / "adapter") == []
    card = (out / "adapter" / "README.md").read_text()
    assert "accuracy" in card and "me/tiny" in card and str(tmp_path) not in card
    record = (out / "adapter" / "training.json").read_text()
    assert json.loads(record)["labels"] == ["bad", "good"] and str(tmp_path) not in record

    code, printed, _ = run(capsys, "eval", base, out, test, "--json")
    measured = json.loads(printed)
    assert code == 0 and measured["rows"] == 40 and measured["accuracy"] > 0.9

    code, printed, _ = run(capsys, "predict", base, out, "--text", "a warm great film", "--text", "a dull awful film")
    assert code == 0 and [json.loads(line)["label"] for line in printed.splitlines()] == ["good", "bad"]
    code, printed, _ = run(capsys, "predict", base, out / "adapter", test, "-o", tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert code == 0 and printed == "" and len(answers) == 40
    right = sum(answer["label"] == label for answer, (_, label) in zip(answers, texts(40, seed=9), strict=True))
    assert right / 40 == pytest.approx(measured["accuracy"])


def test_the_same_command_gives_the_same_adapter(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_csv(tmp_path / "train.csv", texts(24))
    for name in ("one", "two"):
        assert run(capsys, "train", base, data, "-o", tmp_path / name, "--epochs", 1, "--name", "x")[0] == 0
    for file in ("adapter.safetensors", "head.safetensors"):
        assert (tmp_path / "one" / "adapter" / file).read_bytes() == (tmp_path / "two" / "adapter" / file).read_bytes()


def test_tagging(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = [
        ("she said film in Paris", "O O O O B-LOC"),
        ("Berlin said the film", "B-LOC O O O"),
        ("a dull film", "O O O"),
    ]
    rows = [{"tokens": words.split(), "tags": tags.split()} for words, tags in sentences] * 10
    data = write_jsonl(tmp_path / "ner.jsonl", rows)
    options = (
        "-t",
        "tagging",
        "-o",
        tmp_path / "ner",
        "--epochs",
        4,
        "--lr",
        2e-2,
        "--batch-size",
        4,
        "--eval-data",
        data,
    )
    code, _, told = run(capsys, "train", base, data, *options)
    assert code == 0, told
    code, printed, _ = run(capsys, "eval", base, tmp_path / "ner", data, "--json")
    assert json.loads(printed)["span_f1"] == 1.0
    code, printed, _ = run(capsys, "predict", base, tmp_path / "ner", data)
    assert json.loads(printed.splitlines()[0]) == {"tags": ["O", "O", "O", "O", "B-LOC"]}


@pytest.mark.parametrize("task", ["regression", "multilabel", "masked-lm"])
def test_other_tasks_on_an_encoder(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    rows: list[dict[str, Any]] = []
    for number, (text, label) in enumerate(texts(32)):
        value = {"regression": float(label == "good"), "multilabel": f"{label},{'even' if number % 4 < 2 else 'odd'}"}
        rows.append({"text": text, "label": value.get(task, "")})
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    options = ("--epochs", 2, "--lr", 1e-2, "--batch-size", 8, "--eval-data", data, "--json")
    code, printed, told = run(capsys, "train", base, data, "-t", task, "-o", tmp_path / "x", *options)
    assert code == 0, told
    history = json.loads(printed)["history"]["losses"]
    assert sum(history[-4:]) < sum(history[:4])
    code, printed, told = run(capsys, "eval", base, tmp_path / "x", data, "--json")
    assert code == 0, told
    assert json.loads(printed)["task"] == task
    if task != "masked-lm":
        code, printed, _ = run(capsys, "predict", base, tmp_path / "x", data)
        assert code == 0 and len(printed.splitlines()) == 32


@pytest.mark.parametrize(("task", "kind"), [("causal-lm", "llama"), ("seq2seq", "t5")])
def test_generating_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, kind: str) -> None:
    model = write_tokenizer_and_model(tmp_path / kind, kind)
    data = write_jsonl(tmp_path / "rows.jsonl", [{"text": text, "target": "one two"} for text, _ in texts(24)])
    options = ("--epochs", 2, "--lr", 2e-2, "--batch-size", 8, "--eval-data", data, "--json", "-c", "lora")
    code, printed, told = run(capsys, "train", model, data, "-t", task, "-o", tmp_path / "x", *options)
    assert code == 0, told
    history = json.loads(printed)["history"]["epochs"]
    assert history[-1]["perplexity"] < history[0]["perplexity"]
    code, printed, told = run(
        capsys, "predict", model, tmp_path / "x", "--text", "a warm film", "-t", task, "--max-new-tokens", 3
    )
    assert code == 0, told
    assert "text" in json.loads(printed)


def test_convert_and_inspect(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import adapterhub.core as ah

    for name, config in (("bn", "houlsby"), ("lora", "lora")):
        model = ah.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        model.add_adapter(name, config=config)
        model.train_adapter(name)
        model.save_adapter(tmp_path / name, name)
    for source, middle in (("bn", "adapters"), ("lora", "peft"), ("lora", "adapters")):
        first, second = tmp_path / f"{source}-{middle}", tmp_path / f"{source}-{middle}-back"
        assert run(capsys, "convert", tmp_path / source, first, "-f", middle, "-m", base)[0] == 0
        code, printed, told = run(capsys, "convert", first, second, "-m", base, "--name", source, "--json")
        assert code == 0, told
        assert json.loads(printed)["from"] == middle
        for key, tensor in load_file(tmp_path / source / "adapter.safetensors").items():
            assert torch.equal(load_file(second / "adapter.safetensors")[key], tensor)
        assert (
            json.loads((second / "adapter_config.json").read_text())["config"]
            == json.loads((tmp_path / source / "adapter_config.json").read_text())["config"]
        )
    code, printed, _ = run(capsys, "inspect", tmp_path / "bn", "--json")
    report = json.loads(printed)
    assert report["format"] == "native" and report["preset"] == "houlsby" and report["head"]["num_labels"] == 3
    assert report["tensors"]["encoder.0.ffn.down.weight"] == ["float32", [2, 32]]
    code, printed, _ = run(capsys, "inspect", tmp_path / "lora-peft", "--tensors")
    assert code == 0 and "LORA" in printed and "lora_A.weight\tfloat32\t8x32" in printed
    assert run(capsys, "convert", tmp_path / "bn", tmp_path / "x", "-f", "peft", "-m", base)[0] == 2
    assert not (tmp_path / "x").exists()


def test_a_checkpoint_converts_where_its_base_model_cannot_be_reached(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import adapterhub.core as ah

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = ah.AutoAdapterModel.from_pretrained(base, base_model_name="nobody/nowhere")
    model.add_adapter("a", config="pfeiffer")
    model.save_adapter(tmp_path / "old", "a", format="adapters")
    code, _, told = run(capsys, "convert", tmp_path / "old", tmp_path / "new")
    # a BERT of width 32 has 12 layers unless told otherwise: tensors are missing, and that is said
    assert code == 1 and "--model" in told and not (tmp_path / "new").exists()
    code, _, told = run(capsys, "convert", tmp_path / "old", tmp_path / "new", "-m", base)
    assert code == 0, told
    assert "nobody/nowhere" in (tmp_path / "new" / "adapter_config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("train", "{base}", "{nothing}.csv", "-o", "{out}"), 1, "no data file"),
        (("train", "{base}", "{data}", "-o", "{out}", "-c", "pfeifer"), 2, "pfeifer"),
        (("train", "{base}", "{data}", "-o", "{out}", "-t", "juggling"), 2, "juggling"),
        (("train", "{base}", "{data}", "-o", "{out}", "--text-column", "body"), 2, "body"),
        (("train", "{nothing}", "{data}", "-o", "{out}"), 1, "tokenizer"),
        (("train", "{base}", "{data}", "-o", "{full}"), 2, "not empty"),
        (("eval", "{base}", "{nothing}/x", "{data}"), 3, "no folder"),
        (("predict", "{base}", "{nothing}"), 2, "--text"),
        (("convert", "{full}", "{out}"), 3, "no adapter"),
        (("inspect", "{full}"), 3, "no adapter"),
        (("frobnicate",), 2, ""),
    ],
)
def test_mistakes_are_one_line_and_a_hint_not_a_traceback(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    places = {
        "base": base,
        "nothing": tmp_path / "nothing",
        "data": write_csv(tmp_path / "data.csv", texts(8)),
        "out": tmp_path / "out",
        "full": tmp_path / "full",
    }
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    got, _, told = run(capsys, *(argument.format(**places) for argument in arguments))
    assert got == code, told
    assert said in told and "Traceback" not in told
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine" and not (tmp_path / "out").exists()


def test_it_runs_as_a_module_and_help_is_quick_to_import() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "adapterhub.core", "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "eval", "predict", "convert", "inspect"))
    assert " torch\n" not in done.stderr and " transformers\n" not in done.stderr


def test_rows_are_read_and_split_the_same_every_time(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in texts(50)]
    write_csv(tmp_path / "a.csv", texts(50))
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert (
        read_rows(str(tmp_path / "a.csv"))
        == read_rows(str(tmp_path / "a.jsonl"))
        == read_rows(str(tmp_path / "a.json"))
        == rows
    )
    numbered = [{"text": str(number)} for number in range(1000)]
    training, validation = split_rows(numbered, 0.2, "text")
    assert 150 < len(validation) < 250 and len(training) + len(validation) == 1000
    again = split_rows(list(reversed(numbered)), 0.2, "text")[1]
    assert {row["text"] for row in again} == {row["text"] for row in validation}
    (tmp_path / "bad.jsonl").write_text('{"text": 1}\nnot json\n')
    with pytest.raises(AdapterHubError, match=r"bad\.jsonl"):
        read_rows(str(tmp_path / "bad.jsonl"))
    with pytest.raises(AdapterHubError, match=r"data ?set"):
        read_rows("datasets:nobody/nothing-here")


def test_measures() -> None:
    guess, truth = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert metrics.accuracy(guess, truth) == 0.75
    assert metrics.macro_f1(guess, truth, 4) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert metrics.spearman(torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([1.0, 4.0, 9.0, 9.5])) == pytest.approx(
        1.0
    )
    assert metrics.pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    assert metrics.pearson(torch.ones(3), torch.tensor([3.0, 2.0, 1.0])) == 0.0
    assert metrics.span_f1([["B-A", "I-A", "O"]], [["B-A", "I-A", "B-B"]]) == pytest.approx(2 / 3)
    assert metrics.span_f1([["B-A", "O", "O"]], [["B-A", "I-A", "O"]]) == 0.0
    assert metrics.micro_f1(torch.tensor([[True, False]]), torch.tensor([[True, True]])) == pytest.approx(2 / 3)
