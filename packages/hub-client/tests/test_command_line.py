"""The command `adapterhub`: what it prints where, its exit codes, and that no one ever sees a traceback unasked."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import MODEL, Export
from loopback import LoopbackHub

from adapterhub.client.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(sst2: Export, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command over the export `sst2`; gives exit code, stdout, stderr."""
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", str(sst2.folder))

    def call(*line: str) -> tuple[int, str, str]:
        code = main(list(line))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_data_goes_to_stdout_and_remarks_to_stderr(run: Run, tmp_path: Path) -> None:
    code, out, err = run("pull", "sst-2", "--model", MODEL)
    assert code == 0 and (Path(out.strip()) / "adapter.safetensors").is_file() and err == ""
    code, out, err = run("resolve", "sst", "-m", MODEL)
    assert code == 0 and out.startswith("@ukp/") and "prefix" in err
    assert run("-q", "resolve", "sst", "-m", MODEL)[2] == ""
    code, out, err = run("search", "sst", "--model", MODEL)
    assert code == 0 and out.startswith("@ukp/") and out.count("\t") == 6
    code, out, _ = run("info", "sst-2", "-m", MODEL, "--json")
    assert json.loads(out)["username"] == "ukp"
    code, out, _ = run("pull", "sst-2", "-m", MODEL, "--local-dir", str(tmp_path / "here"))
    assert Path(out.strip()) == tmp_path / "here" and (tmp_path / "here" / "README.md").is_file()


@pytest.mark.parametrize(
    "line",
    [
        ["resolve", "sst-2", "--model", MODEL],
        ["-q", "resolve", "-m", MODEL, "sst"],
        ["resolve", f"--model={MODEL}", "sentiment/sst-2@ukp", "--json"],
        ["--offline", "resolve", "sst-2:1", "-m", MODEL, "--config", "pfeiffer", "--type", "text_task", "-s", "ah"],
        ["resolve", "sst-2", "-m", MODEL, "--version=1"],
    ],
)
def test_plain_forms_of_resolve_say_the_same_without_the_tree_of_commands(
    run: Run, line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterhub.client.cli import resolving

    assert resolving.parse(line) is not None
    quick = run(*line)
    assert quick[0] == 0, quick
    monkeypatch.setattr(resolving, "parse", lambda arguments: None)
    assert run(*line) == quick


def test_options_leave_the_environment_of_the_caller_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERHUB_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.delenv("ADAPTERHUB_OFFLINE", raising=False)
    assert run("resolve", "sst-2", "-m", MODEL)[0] == 0
    for line in (["resolve", "sst-2", "-m", MODEL], ["cache", "dir"], ["nonsense"]):
        run("--offline", "--quiet", *line)
        assert "ADAPTERHUB_OFFLINE" not in os.environ
        assert os.environ["ADAPTERHUB_DISABLE_PROGRESS_BARS"] == "0"


def test_every_announced_entry_point_can_be_loaded() -> None:
    from importlib.metadata import distribution

    points = distribution("adapterhub-client").entry_points
    assert {"adapterhub.resolvers", "adapterhub.publishers", "console_scripts"} <= {point.group for point in points}
    for point in points:
        assert callable(point.load()), point


@pytest.mark.parametrize(
    "line",
    [
        ["resolve"], ["resolve", "--help"], ["resolve", "a", "b"], ["resolve", "a", "--model"], ["resolve", "a", "--jso"],
        ["resolve", "a", "-mbert"], ["resolve", "a", "-m", "x", "-m", "y"], ["--version", "resolve", "a"], ["pull", "resolve"],
        ["resolve", "--", "a"], ["resolve", "a", "--json=1"], ["resolve", "a", "--model", "--json"],
    ],
)  # fmt: skip
def test_everything_else_is_left_to_the_tree_of_commands(line: list[str]) -> None:
    from adapterhub.client.cli.resolving import parse

    assert parse(line) is None


def test_a_cached_resolve_loads_no_command_line_library(sst2: Export) -> None:
    program = (
        "import sys\nfrom adapterhub.client.cli import main\n"
        f"code = main(['resolve', 'sst-2', '--model', {MODEL!r}])\n"
        "assert code == 0\n"
        "loaded = {'typer', 'click', 'rich', 'httpx', 'pydantic', 'shutil'} & sys.modules.keys()\n"
        "assert not loaded, loaded\n"
    )
    environment = {**os.environ, "ADAPTERHUB_ENDPOINT": str(sst2.folder)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (["resolve", "sst-2"], 2, "--model"),
        (["resolve", "no such", "-m", MODEL], 2, "no reference"),
        (["resolve", "sst-9", "-m", MODEL], 3, "sst-9"),
        (["resolve", "sst-2:9", "-m", MODEL], 3, "no version"),
        (["pull", "sst-2", "-m", "gpt2"], 3, MODEL),
        (["resolve", "sst-2", "-m", MODEL, "--config", "{oops"], 2, "not JSON"),
        (["--offline", "list"], 2, "No such command"),
        (["pull"], 2, "Missing"),
        (["cache", "rm", "@no/such"], 3, "not in the cache"),
        (["cache", "rm"], 2, "what to remove"),
        (["cache", "prune", "--max-size", "lots"], 2, "no size"),
        (["cache", "prune", "--older-than", "long"], 2, "no length of time"),
        (["resolve", "nowhere::sst-2", "-m", MODEL], 2, "no hub"),
        (["hubs", "rm", "nowhere"], 2, "no hub"),
        (["hubs", "add", "hf", "https://x.example"], 2, "cannot name"),
        (["hubs", "add", "x", "https://u:p@x.example"], 2, "no address"),
        (["push", "nowhere", "sentiment/sst-2@me"], 8, "only be read"),
        (["whoami"], 5, "Not logged in"),
        (["login", "--token", "a b"], 5, "no token"),
        (["sync", "--lockfile", "/dev/null"], 1, "lock file|cannot be read"),
    ],
)
def test_every_failure_has_its_code_one_line_and_a_hint(run: Run, line: list[str], code: int, says: str) -> None:
    import re

    found, out, err = run(*line)
    assert found == code, err
    assert out == "" and re.search(says, err), err
    assert "rror" in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["hubs", "add", "x", "https://x.example"], "ADAPTERHUB_HOME"),
        (["login", "--endpoint", "https://x.example", "--token", "ahub_0123456789", "--no-check"], "ADAPTERHUB_HOME"),
        (["pull", "sst-2", "-m", MODEL, "--local-dir", "file/here"], "another folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_with_what_to_set(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], says: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*line)
    assert (code, out) == (1, "") and "cannot be written" in err and says in err, err


def test_an_error_with_json_is_a_problem_document(run: Run) -> None:
    code, out, err = run("resolve", "sst-2:9", "-m", MODEL, "--json")
    problem = json.loads(err)
    assert (code, out, problem["code"], problem["candidates"]) == (3, "", "VersionNotFound", ["1"])


def test_an_ambiguous_name_lists_its_candidates(run: Run, sst2: Export, adapter: Callable[..., Path]) -> None:
    sst2.publish(adapter("lab", seed=7), "sentiment/sst-2@lab", version="1")
    code, _, err = run("resolve", "sst-2", "-m", MODEL)
    assert code == 4 and "sentiment/sst-2@lab" in err and "sentiment/sst-2@ukp" in err and "Hint:" in err


def test_the_cache_commands(run: Run) -> None:
    run("pull", "sst-2", "-m", MODEL)
    code, out, _ = run("cache", "ls", "--json")
    [item] = json.loads(out)
    assert item["reference"].startswith("@ukp/") and item["files"] == 5
    assert run("cache", "verify")[:2] == (0, f"{item['reference']}\tok\n")
    weights = Path(item["folder"]) / "adapter.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"\0" * weights.stat().st_size)
    code, out, err = run("cache", "verify")
    assert code == 6 and "BROKEN" in out and "pull them again" in err
    run("pull", "sst-2", "-m", MODEL)
    assert json.loads(run("cache", "prune", "--older-than", "1d", "--dry-run", "--json")[1])["removed"] == []
    assert json.loads(run("cache", "rm", item["reference"], "--json")[1])["freed"] > 1_000_000
    assert json.loads(run("cache", "ls", "--json")[1]) == []
    assert run("cache", "dir")[1].strip() == os.environ["ADAPTERHUB_CACHE"]


def test_hubs_pins_and_the_login_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTERHUB_ENDPOINT")
    assert run("hubs", "add", "lab", "https://hub.lab.example/", "--private", "--default")[0] == 0
    assert run("hubs", "pin", "@Our.Team", "lab")[0] == 0
    [hub] = json.loads(run("hubs", "ls", "--json")[1])
    assert hub == {
        "name": "lab",
        "url": "https://hub.lab.example",
        "private": True,
        "default": True,
        "pinned": ["our-team"],
    }
    assert run("login", "--token", "ahub_0123456789abcdef", "--no-check")[0] == 0
    _, out, _ = run("env", "--json")
    assert "tokens.json" in json.loads(out)["token"] and "ahub_" not in out
    assert run("logout")[0] == 0 and json.loads(run("env", "--json")[1])["token"] == "none"
    assert run("hubs", "unpin", "our_team")[0] == 0 and run("hubs", "rm", "lab")[0] == 0
    assert json.loads(run("hubs", "ls", "--json")[1]) == []


def test_login_with_an_address_makes_it_the_default_hub(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTERHUB_ENDPOINT")
    line = ("--token", "ahub_0123456789abcdef", "--no-check")
    assert run("login", "--endpoint", "https://hub.example.org/", *line)[0] == 0
    told = json.loads(run("env", "--json")[1])
    assert told["endpoint"] == "https://hub.example.org" and "tokens.json" in told["token"]
    code, _, err = run("login", "--endpoint", "https://other.example.org", *line)
    assert code == 0 and "default hub stays" in err
    assert json.loads(run("env", "--json")[1])["endpoint"] == "https://hub.example.org"


def test_lock_and_sync_and_locked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("lock", "sst-2", "-m", MODEL)[0] == 0
    code, out, _ = run("sync", "--json")
    assert code == 0 and Path(json.loads(out)["sst-2"]).is_dir()
    assert run("pull", "sst-2", "-m", MODEL, "--locked")[0] == 0
    code, _, err = run("pull", "sst", "-m", MODEL, "--locked")
    assert code == 8 and "adapterhub lock sst" in err


def test_a_traceback_only_comes_when_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("adapterhub.client.cache.Cache.snapshots", lambda self: 1 / 0)
    code, _, err = run("cache", "ls")
    assert code == 1 and "ZeroDivisionError" in err and "ADAPTERHUB_DEBUG=1" in err
    monkeypatch.setenv("ADAPTERHUB_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["cache", "ls"])
    monkeypatch.setattr("adapterhub.client.cache.Cache.snapshots", lambda self: [])
    main(["resolve", "sst-9", "-m", MODEL])
    assert "Traceback" in capsys.readouterr().err


def test_as_a_program(sst2: Export) -> None:
    """The installed command: version at once, exit codes, a closed pipe, the shell's completion."""
    command = str(Path(sys.executable).parent / "adapterhub")
    environment = {**os.environ, "ADAPTERHUB_ENDPOINT": str(sst2.folder)}

    def call(*line: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *line], env={**environment, **more}, capture_output=True, text=True, check=False
        )

    assert call("--version").stdout.startswith("adapterhub-client ")
    assert call("resolve", "sst-9", "-m", MODEL).returncode == 3
    closed = subprocess.run(
        f"{command} search | true", shell=True, env=environment, capture_output=True, text=True, check=False
    )
    assert "BrokenPipe" not in closed.stderr and "Traceback" not in closed.stderr
    completed = call(_ADAPTERHUB_COMPLETE="complete_bash", COMP_WORDS="adapterhub re", COMP_CWORD="1")
    assert "resolve" in completed.stdout
    assert "complete" in call("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    assert "Examples:" in call("--help").stdout


def test_commands_of_other_packages_join(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.metadata

    import typer

    other = typer.Typer()

    @other.command()
    def sing(loud: bool = False) -> None:
        """Sing a song."""
        print("LA" if loud else "la")

    @other.command()
    def pull() -> None:
        """Never gets in the way of ours."""

    class Point:
        def __init__(self, name: str, value: object) -> None:
            self.name, self.value, self._found = name, name, value

        def load(self) -> object:
            if isinstance(self._found, Exception):
                raise self._found
            return self._found

    def dance(arguments: list[str]) -> int:
        """Dance a dance."""
        print("dancing", *arguments)
        return 3

    points = [Point("other", other), Point("dance", dance), Point("broken", ImportError("no torch"))]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    assert main(["sing", "--loud"]) == 0 and capsys.readouterr().out == "LA\n"
    assert main(["dance", "--fast", "now"]) == 3 and capsys.readouterr().out == "dancing --fast now\n"
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert "Sing a song." in out and "Dance a dance." in out and "no torch" in err and "Download adapters" in out


def test_it_says_when_the_hub_does_not_answer_but_the_copy_will_do(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.max_age = 0
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", hub.url)
    assert main(["pull", "sst-2", "-m", MODEL]) == 0
    hub.stop()
    capsys.readouterr()
    assert main(["pull", "sst-2", "-m", MODEL]) == 0
    _, err = capsys.readouterr()
    assert err.count("Note:") == 1 and "does not answer" in err


def test_several_adapters_are_pulled_side_by_side_under_one_display(
    sst2: Export, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """On a terminal, where the bars are drawn."""
    import pty
    import threading

    names = ["sst-2"]
    for number in range(3):
        sst2.publish(adapter(f"more-{number}", hidden=768, seed=number + 50), f"more/set-{number}@ukp", version="1")
        names.append(f"set-{number}")
    command = str(Path(sys.executable).parent / "adapterhub")
    master, slave = pty.openpty()
    environment = {**os.environ, "ADAPTERHUB_ENDPOINT": str(sst2.folder), "TERM": "xterm"}
    drawn = bytearray()

    def watch() -> None:  # a terminal that nobody reads is full after some bars, and then the command waits
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:
                return
            if not piece:
                return
            drawn.extend(piece)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = subprocess.run(
        [command, "pull", *names, "--model", MODEL],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        check=False,
    )
    os.close(slave)
    watcher.join(30)
    os.close(master)
    shown = drawn.decode(errors="replace")
    assert done.returncode == 0, shown
    folders = [Path(line) for line in done.stdout.split()]
    assert len(folders) == 4 and all((folder / "adapter.safetensors").is_file() for folder in folders)
    assert "@ukp/" in shown and "Traceback" not in shown and "LiveError" not in shown
    code = subprocess.run(
        [command, "pull", "sst-2", "nothing", "--model", MODEL], env=environment, capture_output=True, check=False
    )
    assert code.returncode == 3


def test_of_a_crowd_some_are_shown_and_all_are_in_the_json(
    run: Run, sst2: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sst2.entries[0]
    sst2.add(
        [dataclasses.replace(first, namespace=f"p{n}", name=f"a{n}", digest=f"sha256:{n:064x}") for n in range(60)]
    )
    code, out, err = run("resolve", "sentiment/sst-2", "-m", MODEL)
    assert code == 4 and out == "" and "61 adapters" in err and "--json" in err and len(err.splitlines()) < 30
    code, out, err = run("resolve", "sentiment/sst-2", "-m", MODEL, "--json")
    assert code == 4 and len(json.loads(err)["candidates"]) == 61


def test_on_a_terminal_lines_break_between_words_and_never_inside_what_is_copied() -> None:
    import io

    from adapterhub.client.cli.output import wrapped

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    digest = "@me/a-name-with-hyphens:1@sha256:" + "0" * 64
    text = f"Something is wrong with {digest}, and these words are only here to need a third line of the terminal."
    assert wrapped("Error: ", text, io.StringIO()) == "Error: " + text, "a pipe gets one line"
    lines = wrapped("Error: ", text, Terminal()).split("\n")
    assert len(lines) > 2 and any(digest in line for line in lines)
    assert all(line.startswith(" " * 7) for line in lines[1:]) and lines[0].startswith("Error: Something")
    assert " ".join(" ".join(lines).split()) == "Error: " + text


def test_a_table_leaves_columns_out_that_do_not_fit() -> None:
    from adapterhub.client.cli.output import _fitting

    columns, rows = ["adapter", "reference", "size"], [["@ukp/" + "n" * 40, "sentiment/sst-2@ukp", "3.6 MB"]]
    assert _fitting(columns, rows, ["reference", "size"], 100)[0] == columns
    assert _fitting(columns, rows, ["reference", "size"], 60) == (["adapter", "size"], [[rows[0][0], "3.6 MB"]])
    assert _fitting(columns, rows, ["reference", "size"], 20)[0] == ["adapter"]
