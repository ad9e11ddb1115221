"""Commands about the cache: cache ls, rm, prune, verify, dir."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from adapterhub.client.cli.options import Json
from adapterhub.client.cli.output import note, print_json, print_table, readable_bytes, readable_time
from adapterhub.spec.errors import AdapterNotFoundError, IntegrityError

if TYPE_CHECKING:
    from adapterhub.client.cache import Cache

__all__ = ["register"]

_SIZES = {"": 1, "b": 1, "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12}
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    cache = typer.Typer(
        help="Look at the cache and keep it small and sound.", no_args_is_help=True, rich_markup_mode=None
    )
    cache.command("ls")(ls)
    cache.command("rm", epilog="Example: adapterhub cache rm @ukp/bert-sst-2:1")(rm)
    cache.command("prune", epilog="Example: adapterhub cache prune --max-size 2GB --older-than 30d")(prune)
    cache.command("verify")(verify)
    cache.command("dir")(folder)
    app.add_typer(cache, name="cache")


def ls(json: Json = False) -> None:
    """List the versions in the cache, the most recently used first."""
    cache = _cache()
    found = cache.snapshots()
    if json:
        print_json(
            [
                {
                    **info._asdict(),
                    "folder": str(info.folder),
                    "layer": str(info.layer),
                    "shared": info.layer != cache.root,
                }
                for info in found
            ]
        )
        return
    now = time.time()
    print_table(
        ("adapter", "size", "files", "used", "digest", "folder"),
        [
            (
                info.reference,
                readable_bytes(info.size),
                info.files,
                readable_time(now - info.used_at),
                info.digest[:19],
                info.folder,
            )
            for info in found
        ],
        optional=("folder", "digest", "files"),
    )
    note(f"{len(found)} in {cache.root}, {readable_bytes(cache.size())} on disk.")


def rm(
    names: Annotated[
        list[str] | None, typer.Argument(help="@namespace/name[:version], or the start of a digest.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All versions.")] = False,
    index: Annotated[bool, typer.Option("--index", help="The copies of index files.")] = False,
    json: Json = False,
) -> None:
    """Remove versions from the cache."""
    from adapterhub.client.files import remove_tree

    cache = _cache()
    own = [info for info in cache.snapshots() if info.layer == cache.root]
    if not names and not everything and not index:
        raise typer.BadParameter("say what to remove: a name from `adapterhub cache ls`, --all, or --index")
    going = list(own) if everything else []
    for name in names or ():
        fitting = [info for info in own if _fits(info.reference, info.digest, name)]
        if not fitting:
            raise AdapterNotFoundError(f"{name} is not in the cache.", hint="See: adapterhub cache ls")
        going += [info for info in fitting if info not in going]
    freed = sum(cache.remove(info.digest) for info in going)
    if everything:
        cache.sweep(grace=0)
    if index or everything:
        remove_tree(cache.root / "index")
    if json:
        print_json({"removed": [info.reference for info in going], "freed": freed})
    else:
        note(f"Removed {len(going)} version{'s' if len(going) != 1 else ''}, {readable_bytes(freed)} freed.")


def prune(
    max_size: Annotated[str | None, typer.Option("--max-size", help="Keep at most this much, such as 2GB.")] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Remove what was unused so long: 30d, 12h.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove the versions used longest ago, and what interrupted downloads left behind."""
    cache = _cache()
    gone = cache.prune(
        max_size=_size(max_size) if max_size else None,
        older_than=_seconds(older_than) if older_than else None,
        dry_run=dry_run,
    )
    if json:
        print_json(
            {"removed": [info.reference for info in gone], "freed": sum(info.size for info in gone), "dry_run": dry_run}
        )
        return
    for info in gone:
        print(info.reference)
    note(f"{'Would remove' if dry_run else 'Removed'} {len(gone)}, {readable_bytes(sum(info.size for info in gone))}.")


def verify(json: Json = False) -> None:
    """Hash every file in the cache again. What is broken is removed; the next pull fetches it anew. Exit code 6 then."""
    cache = _cache()
    results = list(cache.verify())
    broken = [info for info, fine in results if not fine]
    if json:
        print_json([{"reference": info.reference, "digest": info.digest, "ok": fine} for info, fine in results])
    else:
        print_table(
            ("adapter", "state"), [(info.reference, "ok" if fine else "BROKEN, removed") for info, fine in results]
        )
    if broken:
        raise IntegrityError(
            f"{len(broken)} of {len(results)} versions in the cache were broken.",
            hint="They were removed; pull them again.",
        )


def folder() -> None:
    """Print the cache's folder."""
    print(_cache().root)


def _cache() -> Cache:
    from adapterhub.client.cache import Cache
    from adapterhub.client.settings import load_settings

    settings = load_settings()
    return Cache(settings.cache_dir, settings.shared_caches)


def _fits(reference: str, digest: str, name: str) -> bool:
    if reference == name or reference.rpartition(":")[0] == name:
        return True
    digits = name.removeprefix("sha256:")
    return len(digits) >= 8 and digest.removeprefix("sha256:").startswith(digits)


def _size(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in _SIZES:
        raise typer.BadParameter(f"{text!r} is no size; write it as 500MB or 2GB")
    return int(float(found[1]) * _SIZES[found[2]])


def _seconds(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text.lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time; write it as 12h, 30d or 4w")
    return float(found[1]) * _TIMES[found[2]]
