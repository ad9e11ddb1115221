"""The table of threats in the documentation: whole, and every test it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
TEST = re.compile(r"`([\w/.-]+\.py)::(test_\w+)`")


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "explanation" / "security.md").read_text()


def test_every_threat_has_a_defence_and_a_test(page: str) -> None:
    rows = ROW.findall(page)
    assert [int(number) for number, *_ in rows] == list(range(1, 25))
    for number, threat, defence, tests in rows:
        assert threat and defence and TEST.findall(tests), number
        assert not TEST.sub("", tests).strip(), f"{number}: something beside tests"


def test_every_test_named_exists(page: str, repository: Path) -> None:
    named = TEST.findall(page)
    assert len(named) > 60
    defined = {
        path: {
            node.name
            for node in ast.walk(ast.parse((repository / path).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for path in {path for path, _ in named}
    }
    assert [f"{path}::{name}" for path, name in named if name not in defined[path]] == []
