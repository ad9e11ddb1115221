"""Dependencies are resolved when something is published, so that what it stands on exists and can be seen by its users."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.manifest import Manifest
from adapterhub.spec.reference import parse_reference
from adapterhub.spec.validation.problem import Problem

__all__ = ["dependency_problems"]


def dependency_problems(
    connection: Connection, manifest: Manifest, organisation: Row[Any], viewer: Viewer
) -> list[Problem]:
    """Dependencies that do not resolve on this hub. What is public may only stand on what is public."""
    from adapterhub.server.resolving.service import resolve_reference

    problems: list[Problem] = []
    for number, dependency in enumerate(manifest.dependencies):
        place = f"/dependencies/{number}/reference"
        try:
            reference = parse_reference(dependency.reference)
            if reference.hub is not None and reference.hub != "ah":
                continue  # another hub's adapter: the client resolves it there
            seen_by = viewer if organisation.private else ANONYMOUS
            found = resolve_reference(connection, reference, seen_by, model_name=manifest.base_model.name)
            if dependency.digest is not None and found.digest not in (None, dependency.digest):
                problems.append(
                    Problem(f"/dependencies/{number}/digest", f"{dependency.reference} has the digest {found.digest}")
                )
        except AdapterHubError as error:
            problems.append(Problem(place, f"{dependency.reference}: {error.message}", error.hint))
    return problems
