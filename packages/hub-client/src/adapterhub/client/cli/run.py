"""Run one command and turn every failure into a line that says what to do next."""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

from adapterhub.spec.errors import AdapterHubError, AmbiguousAdapterError, ValidationFailedError, exit_code

__all__ = ["run"]

#: Variables that options before the command's name set; who calls `main` from a program finds them as they were.
_OPTIONS = ("ADAPTERHUB_DISABLE_PROGRESS_BARS", "ADAPTERHUB_OFFLINE")

_SHOWN = 20
_FEW_TASKS = 10


def run(arguments: list[str]) -> int:
    """Run `arguments`; returns the exit code."""
    kept = warnings.showwarning
    before = {name: os.environ.get(name) for name in _OPTIONS}
    warnings.showwarning = _show_warning
    try:
        from adapterhub.client.cli.output import apply_options
        from adapterhub.client.cli.resolving import parse, resolve

        if (plain := parse(arguments)) is not None:
            options, given = plain
            apply_options(**options)
            resolve(**given)  # type: ignore[arg-type]
            return 0
        from adapterhub.client.cli.app import build

        command = build(arguments)
        code = command(args=arguments or ["--help"], prog_name="adapterhub", standalone_mode=True)
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else (0 if stop.code is None else 1)
    except AdapterHubError as error:
        return _fail(error, arguments)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if _debugging():
            raise
        kind = type(error).__name__
        print(f"Error: {_one_line(str(error)) or kind} ({kind}).", file=sys.stderr)
        print("Hint: Run again with ADAPTERHUB_DEBUG=1 for the details.", file=sys.stderr)
        return 1
    finally:
        warnings.showwarning = kept
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _fail(error: AdapterHubError, arguments: list[str]) -> int:
    if _debugging():
        import traceback

        traceback.print_exception(error)
    if "--json" in arguments:
        try:
            problem = {**error.to_problem(), "problems": getattr(error, "problems", [])}
        except AdapterHubError as further:  # the candidates cannot be read now
            return _fail(further, arguments)
        print(json.dumps(problem, default=str), file=sys.stderr)
        return _code_of(error)
    from adapterhub.client.cli.output import wrapped

    print(wrapped("Error: ", _one_line(error.message), sys.stderr), file=sys.stderr)
    for problem in getattr(error, "problems", []) if isinstance(error, ValidationFailedError) else []:
        print(f"  {_problem_line(problem)}", file=sys.stderr)
    if isinstance(error, AmbiguousAdapterError):
        _print_candidates(error)
    if error.suggestions and not any(str(word) in error.hint for word in error.suggestions):
        print(f"Did you mean: {', '.join(map(str, error.suggestions))}", file=sys.stderr)
    if error.hint:
        print(wrapped("Hint: ", _one_line(error.hint), sys.stderr), file=sys.stderr)
    return _code_of(error)


def _code_of(error: AdapterHubError) -> int:
    from adapterhub.client.settings import NoHubError

    return 2 if isinstance(error, NoHubError) else exit_code(error)


def _print_candidates(error: AmbiguousAdapterError) -> None:
    """Some of them. Of a crowd only those that are known are shown: the rest would have to be read first."""
    from adapterhub.client.finding import ListedLaterError

    known = error.known if isinstance(error, ListedLaterError) else error.candidates
    if not known:
        if len(error.details.get("tasks", ())) > _FEW_TASKS:
            return  # the message names some, and each has adapters
        try:
            known = error.candidates
        except AdapterHubError:
            return  # the message has the tasks
    for candidate in known[:_SHOWN]:
        print(f"  {_candidate_line(candidate)}", file=sys.stderr)
    if len(known) > _SHOWN or (isinstance(error, ListedLaterError) and not error.complete):
        print("  … and more; --json lists all of them.", file=sys.stderr)


def _problem_line(problem: Any) -> str:
    if not isinstance(problem, dict):
        return _one_line(str(problem))
    place = " ".join(str(problem[key]) for key in ("file", "pointer") if problem.get(key))
    text = f"{place}: {problem.get('message', '')}" if place else str(problem.get("message", ""))
    hint = str(problem.get("hint") or "")
    if hint and text and text[-1] not in ".!?:;…":
        text += "."
    return _one_line(f"{text} {hint}")


def _candidate_line(candidate: Any) -> str:
    if isinstance(candidate, dict):
        return f"{candidate.get('adapter', '')}  ({candidate.get('id', '')})"
    return str(candidate)


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    print(f"Note: {_one_line(str(message))}", file=sys.stderr)


def _debugging() -> bool:
    return os.environ.get("ADAPTERHUB_DEBUG", "").strip().lower() in {"1", "on", "yes", "true"}
