"""Each distribution is built, put alone into an empty environment with only what it declares, and imported whole."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

FOLDERS = {"spec": "spec", "core": "core", "client": "hub-client", "server": "hub-server"}
#: What each package's environment must do without.
ABSENT = {
    "spec": ("torch", "transformers", "httpx", "fastapi", "adapterhub.core", "adapterhub.client", "adapterhub.server"),
    "core": ("fastapi", "sqlalchemy", "adapterhub.client", "adapterhub.server"),
    "client": ("torch", "transformers", "fastapi", "sqlalchemy", "adapterhub.core", "adapterhub.server"),
    "server": ("torch", "transformers", "adapterhub.core", "adapterhub.client"),
}

IMPORT_EVERYTHING = """
import importlib, importlib.util, json, pkgutil, sys
sys.path[:0] = json.loads(sys.argv[1])
package = importlib.import_module("adapterhub." + sys.argv[2])
failed = {}
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if module.name.endswith("__main__") or ".migrations." in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except Exception as error:
        failed[module.name] = repr(error)
def found(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
print(json.dumps({"failed": failed, "present": [n for n in json.loads(sys.argv[3]) if found(n)],
                  "file": getattr(sys.modules["adapterhub"], "__file__", None), "where": package.__file__}))
"""


@dataclass(frozen=True)
class Built:
    """One distribution's two archives."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Every package's source archive, and the wheel made from that source archive alone."""
    target = tmp_path_factory.mktemp("dist")
    archives = {}
    for package, folder in FOLDERS.items():
        command = [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            str(target),
            str(repository / "packages" / folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        archives[package] = Built(
            next(target.glob(f"adapterhub_{package}-*.tar.gz")), next(target.glob(f"adapterhub_{package}-*.whl"))
        )
    return archives


def _closure(requirements: list[str], extras: frozenset[str] = frozenset()) -> dict[str, metadata.Distribution]:
    """The installed distributions the requirements lead to, AdapterHub's own left out."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(Requirement(text), extras) for text in requirements]
    while waiting:
        requirement, wanted = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in wanted or {""}):
            continue
        key = requirement.name.lower().replace("_", "-")
        if key.startswith("adapterhub-"):
            continue
        distribution = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), requirement
        if key not in found or requirement.extras:
            found[key] = distribution
            waiting += [(Requirement(text), frozenset(requirement.extras)) for text in distribution.requires or ()]
    return found


def _empty_environment(target: Path, wheels: list[Path]) -> Path:
    """A folder that holds the wheels' files and links to what they declare, as an installer would leave it."""
    requirements: list[str] = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    for info in target.glob("adapterhub_*.dist-info"):
        requirements += metadata.Distribution.at(info).requires or []
    for distribution in _closure(requirements).values():
        for file in distribution.files or ():
            top = file.parts[0]
            if top in ("..", "__pycache__", "bin") or top.endswith(".pth"):
                continue
            link = target / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return target


@pytest.mark.parametrize("package", FOLDERS)
def test_a_wheel_alone_imports_with_only_what_it_declares(
    package: str, built: dict[str, Built], tmp_path: Path
) -> None:
    wheels = [built[package].wheel] + ([built["spec"].wheel] if package != "spec" else [])
    target = _empty_environment(tmp_path / "site", wheels)
    # -I -S: no environment variables, no user folder, no site-packages: the folder is all there is beside the standard library
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        IMPORT_EVERYTHING,
        json.dumps([str(target)]),
        package,
        json.dumps(ABSENT[package]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["failed"] == {}
    assert answer["present"] == []
    assert answer["file"] is None, "adapterhub must stay a namespace package"
    assert answer["where"].startswith(str(target))


@pytest.mark.parametrize("package", FOLDERS)
def test_a_wheel_ships_types_licence_and_code_of_its_own_package_only(package: str, built: dict[str, Built]) -> None:
    with zipfile.ZipFile(built[package].wheel) as wheel:
        names = wheel.namelist()
    assert f"adapterhub/{package}/py.typed" in names
    assert "adapterhub/__init__.py" not in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {"/".join(name.split("/")[:2]) for name in names if name.startswith("adapterhub/")} == {
        f"adapterhub/{package}"
    }
    assert not [name for name in names if "/tests/" in name or name.endswith(".pyc")]


@pytest.mark.parametrize("package", FOLDERS)
def test_a_source_archive_holds_files_only_no_links(package: str, built: dict[str, Built]) -> None:
    with tarfile.open(built[package].sdist) as archive:
        members = archive.getmembers()
    assert not [m.name for m in members if m.issym() or m.islnk()]
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= {m.name.split("/")[-1] for m in members}


def test_the_spec_wheel_and_source_archive_ship_the_language_neutral_files(
    built: dict[str, Built], repository: Path
) -> None:
    with zipfile.ZipFile(built["spec"].wheel) as wheel, tarfile.open(built["spec"].sdist) as sdist:
        shipped = {
            "wheel": {name.removeprefix("adapterhub/spec/data/") for name in wheel.namelist()},
            "sdist": {name.partition("/spec/data/")[2] for name in sdist.getnames()},
        }
    for folder in ("schemas", "presets", "families"):
        files = {str(p.relative_to(repository / "spec")) for p in (repository / "spec" / folder).glob("*.json")}
        assert files, f"spec/{folder} is empty"
        for kind, names in shipped.items():
            assert files <= names, (kind, files - names)
            assert not [name for name in names if "conformance" in name], "test vectors stay in the repository"


def test_every_data_file_of_a_package_is_in_its_wheel(built: dict[str, Built], repository: Path) -> None:
    """Templates, style sheets, migrations and the like: whatever lies beside the code and is not code."""
    for package, folder in FOLDERS.items():
        source = repository / "packages" / folder / "src"
        files = {
            str(path.relative_to(source))
            for path in (source / "adapterhub" / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        with zipfile.ZipFile(built[package].wheel) as wheel:
            assert files <= set(wheel.namelist()), (package, files - set(wheel.namelist()))


def test_the_licence_is_the_same_everywhere(repository: Path) -> None:
    text = (repository / "LICENSE").read_bytes()
    for folder in FOLDERS.values():
        assert (repository / "packages" / folder / "LICENSE").read_bytes() == text
