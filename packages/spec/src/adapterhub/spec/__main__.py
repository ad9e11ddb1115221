"""`python -m adapterhub.spec`: validate files and folders, and keep the JSON Schemas in step with the models."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from adapterhub.spec.__about__ import __version__

EPILOG = "Exit status: 0 no problems, 1 problems, 2 wrong use or unreadable."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 fine, 1 problems, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m adapterhub.spec", description=__doc__, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"adapterhub-spec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    validate = commands.add_parser(
        "validate",
        help="list every problem of an adapter folder, manifest, record, weights file or archive",
        epilog=EPILOG,
    )
    validate.add_argument("paths", nargs="+", metavar="PATH", type=Path, help="file or adapter folder")
    validate.add_argument("--json", action="store_true", help="print one JSON document instead of text")

    schemas = commands.add_parser("schemas", help="write or check spec/schemas from the models", epilog=EPILOG)
    group = schemas.add_mutually_exclusive_group(required=True)
    group.add_argument("--write", action="store_true", help="write the schema files")
    group.add_argument("--check", action="store_true", help="tell which schema files differ from the models")
    schemas.add_argument("--folder", type=Path, help="where the schemas are; by default those shipped with the package")

    options = parser.parse_args(arguments)
    if options.command == "validate":
        return _validate(options.paths, as_json=options.json)
    from adapterhub.spec.schemas import check_schemas, write_schemas

    if options.write:
        for path in write_schemas(options.folder):
            print(path)
        return 0
    differing = check_schemas(options.folder)
    for name in differing:
        print(f"{name} differs from the models; run: python -m adapterhub.spec schemas --write", file=sys.stderr)
    return 1 if differing else 0


def _validate(paths: Sequence[Path], *, as_json: bool) -> int:
    from adapterhub.spec.validate import has_errors, validate_path

    reports = []
    for path in paths:
        try:
            reports.append((path, validate_path(path)))
        except OSError as error:
            print(f"{ascii(str(path))[1:-1]}: {error.strerror or error}", file=sys.stderr)
            return 2
    failed = any(has_errors(problems) for _, problems in reports)
    if as_json:
        document = [
            {
                "path": str(path),
                "valid": not has_errors(problems),
                "problems": [problem.to_json() for problem in problems],
            }
            for path, problems in reports
        ]
        print(json.dumps(document[0] if len(document) == 1 else document, indent=2))
        return 1 if failed else 0
    for path, problems in reports:
        if not problems:
            _say(f"{path}: fine")
            continue
        count = len(problems)
        _say(f"{path}: {count} problem{'s' if count > 1 else ''}")
        for problem in problems:
            place = ":".join(str(part) for part in (problem.file, problem.line) if part not in ("", None))
            where = "  ".join(part for part in (place, problem.pointer) if part)
            label = "" if problem.severity == "error" else "warning: "
            _say(f"  {where}" if where else "  (whole file)")
            _say(f"    {label}{problem.message}")
            if problem.hint:
                _say(f"    → {problem.hint}")
    return 1 if failed else 0


def _say(text: str) -> None:
    """Print a line with what a terminal might obey, or what no encoding has, written as escapes."""
    from adapterhub.spec.validation.plain_text import hidden_character

    shown = "".join(letter if hidden_character(letter) is None else ascii(letter)[1:-1] for letter in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
