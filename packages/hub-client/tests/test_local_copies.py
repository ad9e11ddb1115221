"""A folder of the user's own (`download(..., local_dir=…)`): brought up to date, and nothing of the user's lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import MODEL, Export

from adapterhub.client import HubClient, StorageError

REFERENCE = "sentiment/sst-2@ukp"


def pull(export: Export, target: Path, version: str) -> Path:
    with HubClient(endpoint=str(export.folder)) as client:
        return client.download(REFERENCE, model_name=MODEL, version=version, local_dir=target)


def visible(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def two_versions(sst2: Export, adapter: Callable[..., Path]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of version 1 of sentiment/sst-2@ukp, which has one more, and of version 2."""
    first = adapter("first", seed=5)
    (first / "notes").mkdir()
    (first / "notes" / "more.txt").write_text("only in the first version\n")
    second = adapter("second", seed=6)
    sst2.publish(first, REFERENCE, version="1.1")
    sst2.publish(second, REFERENCE, version="2")
    return visible(first), visible(second)


def test_another_version_takes_the_place_of_the_one_before(
    sst2: Export, two_versions: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path
) -> None:
    target = tmp_path / "mine"
    first, second = two_versions
    assert visible(pull(sst2, target, "1.1")) == first
    (target / "my-notes.txt").write_text("mine")
    assert visible(pull(sst2, target, "2")) == {**second, "my-notes.txt": b"mine"}
    assert visible(pull(sst2, target, "1.1")) == {**first, "my-notes.txt": b"mine"}
    assert visible(pull(sst2, target, "1.1")) == {**first, "my-notes.txt": b"mine"}


@pytest.mark.parametrize("name", ["README.md", "notes/more.txt", "adapter.safetensors"])
def test_what_the_user_changed_is_not_replaced(
    sst2: Export, two_versions: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path, name: str
) -> None:
    target = pull(sst2, tmp_path / "mine", "1.1")
    (target / name).write_text("changed")
    before = visible(target)
    with pytest.raises(StorageError, match="nothing was changed") as error:
        pull(sst2, target, "2")
    assert name in error.value.message and "another folder" in error.value.hint
    assert visible(target) == before


def test_a_folder_with_other_files_of_these_names_is_left_alone(sst2: Export, tmp_path: Path) -> None:
    target = tmp_path / "project"
    target.mkdir()
    (target / "README.md").write_text("my project")
    with pytest.raises(StorageError, match="nothing was changed"):
        pull(sst2, target, "1")
    assert visible(target) == {"README.md": b"my project"}


def test_without_the_record_only_what_is_the_same_may_be_there(
    sst2: Export, two_versions: tuple[dict[str, bytes], dict[str, bytes]], tmp_path: Path
) -> None:
    target = pull(sst2, tmp_path / "mine", "1.1")
    shutil.rmtree(tmp_path / "cache")
    assert visible(pull(sst2, target, "1.1")) == two_versions[0]
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(StorageError, match="nothing was changed"):
        pull(sst2, target, "2")


def test_a_copy_that_was_interrupted_is_finished_by_the_next(
    sst2: Export,
    two_versions: tuple[dict[str, bytes], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from adapterhub.client import copying

    target = pull(sst2, tmp_path / "mine", "1.1")
    copy = copying._copy

    def some(path: Path, to: Path) -> None:
        if to.name == "adapter_config.json":
            raise KeyboardInterrupt
        copy(path, to)

    monkeypatch.setattr(copying, "_copy", some)
    with pytest.raises(KeyboardInterrupt):
        pull(sst2, target, "2")
    monkeypatch.setattr(copying, "_copy", copy)
    first, second = two_versions
    assert visible(pull(sst2, target, "1.1")) == first
    assert visible(pull(sst2, target, "2")) == second


def test_a_copy_can_be_published_and_checked_like_any_folder(sst2: Export, tmp_path: Path) -> None:
    from adapterhub.spec import validate

    target = pull(sst2, tmp_path / "mine", "1")
    assert not [problem for problem in validate.validate_path(target) if problem.to_json().get("severity") != "warning"]
