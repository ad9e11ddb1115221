"""Vectors of index lines and files (SPEC.md 14), made from the catalogue of the resolution vectors."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from resolution import ALIASES, DEFAULTS, ENTRIES, A
from writing import CONFORMANCE, numbered, write

from adapterhub.spec.errors import AdapterHubError
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.index_files import SPLIT_ABOVE, build_index
from adapterhub.spec.lookup import PartlyListedError, look_up

SMALL = {
    "v": 1, "namespace": "alpha", "name": "one", "version": "1", "model_name": "base-a", "task": "sentiment",
    "subtask": "sst-2", "type": "text_task", "method": "lora",
}  # fmt: skip


def changed(**members: Any) -> str:
    """The small line with members replaced; None removes one."""
    return json.dumps({key: value for key, value in {**SMALL, **members}.items() if value is not None})


#: (why, line, members a reader must find)
VALID = [
    ("the required members alone", changed(), {**SMALL, "yanked": False, "status": "available", "digest": None}),
    ("absent and null are the same", json.dumps({**SMALL, "digest": None, "license": None}), {"digest": None, "license": None}),
    ("members of later versions are ignored", changed(mirrors=["x"], size=3), {"size": 3}),
    ("without v it is version 1", changed(v=None), {"name": "one"}),
    ("a yanked version", changed(yanked=True, yanked_reason="wrong labels"), {"yanked": True, "yanked_reason": "wrong labels"}),
    ("a file of the 2020 hub", changed(files=[{"sha256": "0" * 64, "score": 91.5}], status="unavailable"),
     {"status": "unavailable", "files": [{"sha256": "0" * 64, "score": 91.5}]}),
    ("any text", changed(license="\u00e9\u2028\U0001f600"), {"license": "\u00e9\u2028\U0001f600"}),
    *(("an entry of the resolution catalogue", json.dumps(entry), entry) for entry in ENTRIES[::10]),
]  # fmt: skip

#: (why, line)
INVALID = [
    ("no JSON", "{"),
    ("no object", "[]"),
    ("a required member is missing", changed(name=None)),
    ("a required member is null", json.dumps({**SMALL, "task": None})),
    ("a required member is missing", changed(type=None)),
    ("text is needed", changed(version=1)),
    ("a boolean is needed", changed(yanked="no")),
    ("a whole number is needed", changed(size=1.5)),
    ("a whole number is needed", changed(hidden_size=True)),
    ("an object is needed", changed(config=[])),
    ("a list is needed", changed(files={})),
    ("a list of objects is needed", changed(files=["x"])),
    ("no known status", changed(status="lost")),
    ("no digest", changed(digest="sha256:../../blobs")),
    ("a digest in upper case", changed(config_id="sha256:" + "A" * 64)),
]

#: lines a reader passes over without an error
SKIPPED = [
    ("a later version of the line format", json.dumps({"v": 2, "name": {"new": "shape"}})),
    ("an empty line", ""),
]

#: references and what is given beside them; `own` is a table of aliases instead of the hub's
LOOKUPS = [
    ("sentiment/sst-2", {}), ("sst-2", {}), ("sst", {}), ("@alpha/sst-2-p", {}), ("@Mixed.Case/Name_One:RC1", {}), ("movies", {}),
    ("english", {}), ("english", {"own": {"english": "en/wiki"}}), ("exam/maths", {}), ("gone", {}), ("gone:1", {}), ("en", {"type": "text_lang"}),
    ("nothing-here", {}), ("c++", {}), ("glue/sst2", {}), ("glue/sst2@beta", {}), ("sst-2@beta", {}), ("sentiment@alpha", {}), ("sentiment", {}),
    ("opinion/sst", {}), ("sentiment/sst-2@beta", {}), ("sentiment/sst-2@nobody", {}), ("sst@nobody", {}),
]  # fmt: skip


def files(split_above: int) -> dict[str, str]:
    """Every index file of the catalogue."""
    entries = [IndexEntry.from_json(entry) for entry in ENTRIES]
    defaults = {(one["model_name"], one["task"], one["subtask"]): one["default"] for one in DEFAULTS}
    built = build_index(entries, defaults, aliases=ALIASES, config={"name": "example"}, split_above=split_above)
    return {path: data.decode() for path, data in sorted(built)}


def lookups(tree: dict[str, str]) -> list[dict[str, Any]]:
    """Which files each reference needs, round by round; for an ambiguity told from a part, also for the whole list."""
    listed = []
    for ref, context in LOOKUPS:
        for complete in (False, True):
            about = {"ref": ref, "model_name": A, "type": context.get("type"), "aliases": context.get("own")}
            steps = look_up(**about, complete=complete)
            rounds, partly = [], False
            try:
                paths = next(steps)
                while True:
                    rounds.append(paths)
                    paths = steps.send({path: tree[path].encode() if path in tree else None for path in paths})
            except (StopIteration, AdapterHubError) as end:
                partly = isinstance(end, PartlyListedError)
            listed.append({**about, "complete": complete, "rounds": rounds})
            if not partly:
                break
    return listed


def hashes() -> list[dict[str, Any]]:
    """The hashes of paths, computed here without the package."""
    listed = []
    for parts in [
        ["base-a", "sentiment", "sst-2"],
        ["Base_A", "SENTIMENT", "sst.2"],
        ["owner/base-c", "pets"],
        ["base-a"],
        ["\u00e9"],
    ]:
        folded = [part.translate({**{c: c + 32 for c in range(65, 91)}, 95: 45, 46: 45}) for part in parts]
        listed.append({"parts": parts, "hash": hashlib.sha256("\n".join(folded).encode()).hexdigest()[:4]})
    return listed


def main(folder: Path = CONFORMANCE) -> None:
    write(
        folder,
        "index/lines.json",
        {
            "about": "valid: members a reader must find (null: absent). invalid: refused. skipped: passed over.",
            "valid": numbered("line", ({"why": why, "line": text, "members": members} for why, text, members in VALID)),
            "invalid": numbered("no-line", ({"why": why, "line": text} for why, text in INVALID)),
            "skipped": numbered("skipped", ({"why": why, "line": text} for why, text in SKIPPED)),
        },
    )
    about = (
        "hashes: SPEC.md 14.2. files: index files of ../resolution/catalogue.json (JSON values and the set of lines count, not "
        "the spelling of the JSON), all of them if `complete`; more than `split_above` adapters of one (model, task, subtask) "
        "are split. lookups: the files each reference needs, in rounds; the order in a round does not count; `complete`: to "
        "list every candidate of an ambiguity; `aliases`: a table to use instead of the hub's, null for none."
    )
    for name, split_above in (("files", SPLIT_ABOVE), ("split", 2)):
        tree = files(split_above)
        kept = [path for path in tree if name == "files" or path[7:9] in ("a/", "w/", "k/", "al")]
        write(
            folder,
            f"index/{name}.json",
            {
                "about": about,
                "split_above": split_above,
                "complete": len(kept) == len(tree),
                "hashes": hashes(),
                "files": [{"path": path, "text": tree[path]} for path in kept],
                "lookups": lookups(tree),
            },
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
