"""Vectors of resolution (SPEC.md 11): a small catalogue, and what references mean in it.

The expectations are written by hand from the text of the specification; nothing below calls an implementation of it, but
for the expanded configs and their ids.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from writing import CONFORMANCE, numbered, write

from adapterhub.spec import load_preset

A, B, C = "base-a", "base-b", "owner/base-c"


def digest(text: str) -> str:
    """A digest that stands for a manifest."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def entry(
    path: str, adapter: str, version: str = "1", *, model: str = A, using: str = "pfeiffer", **more: Any
) -> dict[str, Any]:
    """An index entry; overrides of the preset are in `overrides`."""
    task, subtask = path.split("/")
    namespace, name = adapter[1:].split("/")
    config = load_preset(using, **more.pop("overrides", {}))
    return {
        "v": 1,
        "namespace": namespace,
        "name": name,
        "version": version,
        "model_name": model,
        "task": task,
        "subtask": subtask,
        "type": "text_task",
        "method": config.method,
        "using": using,
        "config": config.expand(),
        "config_id": config.config_id,
        **({"legacy_config_id": config.legacy_config_id} if config.legacy_config_id else {}),
        "digest": digest(f"{adapter}:{version}"),
        **more,
    }


LEGACY_FILE = digest("a file of the 2020 hub")

ENTRIES = [
    entry("sentiment/sst-2", "@alpha/sst-2-p", "1", created_at="2026-01-01T00:00:00Z"),
    entry("sentiment/sst-2", "@alpha/sst-2-p", "2", created_at="2026-02-01T00:00:00Z"),
    entry(
        "sentiment/sst-2", "@alpha/sst-2-p", "3", created_at="2026-03-01T00:00:00Z", yanked=True, yanked_reason="wrong"
    ),
    entry("sentiment/sst-2", "@alpha/sst-2-h", using="houlsby"),
    entry("sentiment/sst-2", "@beta/b-sst", "1.0", model=B, using="lora"),
    entry("sentiment/imdb", "@alpha/imdb", "1"),
    entry("sentiment/imdb", "@alpha/imdb", "2", default_version="1"),
    entry("nli/rte", "@alpha/rte"),
    entry("nli/rte", "@beta/rte"),
    entry("nli/mnli", "@alpha/mnli"),
    entry("nli/mnli", "@beta/mnli", using="houlsby"),
    entry("nli/mnli", "@beta/mnli", "2", using="houlsby"),
    entry("en/wiki", "@alpha/en", using="pfeiffer+inv", type="text_lang", language="en"),
    entry("ner/en", "@beta/ner-en"),
    entry("exam/maths-1", "@alpha/maths-1"),
    entry("exam/maths-2", "@beta/maths-2"),
    entry("exam/art", "@alpha/art"),
    entry("exam/art-history", "@alpha/art-history"),
    entry("code/c++", "@alpha/c-plus-plus"),
    entry("Mixed_Task/Sub.Task", "@Mixed.Case/Name_One", "1.0.1"),
    entry("Mixed_Task/Sub.Task", "@Mixed.Case/Name_One", "1.0-1"),
    entry("Mixed_Task/Sub.Task", "@Mixed.Case/Name_One", "RC1"),
    entry("rank/a", "@alpha/p16"),
    entry("rank/a", "@alpha/p8", overrides={"reduction_factor": 8}),
    entry("rank/a", "@alpha/p2", overrides={"reduction_factor": 2}),
    entry("rank/b", "@alpha/q8", overrides={"reduction_factor": 8}),
    entry("rank/b", "@alpha/q2", overrides={"reduction_factor": 2}),
    entry("rank/d", "@alpha/r16"),
    entry("rank/d", "@beta/r8", overrides={"reduction_factor": 8}),
    entry("old/gone", "@alpha/gone", yanked=True),
    entry("old/gone-by", "@beta/gone-by"),
    entry("old/half", "@alpha/half", yanked=True),
    entry("old/half", "@beta/half"),
    entry("time/zones", "@alpha/zones", "late", created_at="2026-01-01T00:30:00Z"),
    entry("time/zones", "@alpha/zones", "early", created_at="2026-01-01T01:00:00+02:00"),
    entry("time/zones", "@alpha/zones", "undated"),
    entry("time/same", "@alpha/same", "b"),
    entry("time/same", "@alpha/same", "a"),
    {
        **entry("legacy/zip", "@alpha/zip"),
        "digest": None,
        "files": [{"sha256": LEGACY_FILE[7:]}],
        "status": "unavailable",
    },
    entry("twin/a", "@alpha/twin", "1"),
    entry("twin/a", "@alpha/twin", "2", model=B),
    entry("moved/old", "@beta/moved", "1", using="houlsby"),
    entry("moved/new", "@beta/moved", "2"),
    entry("vision/pets", "@beta/pets", model=C, using="loreft"),
]
ENTRIES = [{key: value for key, value in one.items() if value is not None} for one in ENTRIES]

DEFAULTS = [
    {"v": 1, "default": "@alpha/sst-2-p", "model_name": A, "task": "sentiment", "subtask": "sst-2"},
    {"v": 1, "default": "@beta/mnli", "model_name": A, "task": "nli", "subtask": "mnli"},
    {"v": 1, "default": "@alpha/p2", "model_name": A, "task": "rank", "subtask": "a"},
    {"v": 1, "default": "@beta/r8", "model_name": A, "task": "rank", "subtask": "d"},
]

ALIASES = {
    "movies": "imdb",
    "SST": "nli/rte",
    "glue/sst2": "sentiment/sst-2",
    "opinion": "sentiment",
    "chain": "movies",
    "stars": "sst",
    "english": "en/wiki",
    "art": "maths-1",
    "nowhere": "not-here",
    "exam": "not-here",
}


def ok(
    path: str, adapter: str, version: str, tier: str, decided_by: str, *, using: str = "pfeiffer", **more: str
) -> dict[str, Any]:
    namespace, name = adapter[1:].split("/")
    answer = {"id": f"{path}@{namespace}", "namespace": namespace, "adapter": name, "version": version}
    return {"ok": {**answer, "architecture": using, "tier": tier, "decided_by": decided_by, **more}}


def ambiguous(*candidates: tuple[str, str]) -> dict[str, Any]:
    listed = [{"id": f"{path}@{adapter[1:].split('/')[0]}", "adapter": adapter} for path, adapter in candidates]
    return {"error": "Ambiguous", "candidates": listed}


def missing(*suggestions: str, models: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"error": "NotFound", "candidates": [], "must_suggest": list(suggestions), "models": list(models)}


def no_version(*versions: str) -> dict[str, Any]:
    return {"error": "VersionNotFound", "candidates": list(versions)}


def mismatch(model: str) -> dict[str, Any]:
    return {"error": "ModelMismatch", "candidates": [], "adapter_model": model}


INVALID = {"error": "InvalidReference", "candidates": []}
SST = ("sentiment/sst-2", "@alpha/sst-2-p")
SST_H = ("sentiment/sst-2", "@alpha/sst-2-h")
IMDB = ("sentiment/imdb", "@alpha/imdb")
NAME = ("Mixed_Task/Sub.Task", "@Mixed.Case/Name_One")
PFEIFFER = load_preset("pfeiffer")
HOULSBY = load_preset("houlsby")
OLD_EXPANDED = {
    "adapter_residual_before_ln": False, "ln_after": False, "ln_before": False, "mh_adapter": True, "non_linearity": "swish",
    "original_ln_after": True, "original_ln_before": False, "output_adapter": True, "reduction_factor": 16,
    "residual_before_ln": True,
}  # fmt: skip

#: (group, reference, context besides model_name = base-a, expectation)
CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    # tiers
    ("exact", "sentiment/sst-2", {}, ok(*SST, "2", "exact", "default")),
    ("exact", "sst-2", {}, ok(*SST, "2", "exact", "default")),
    ("exact", "SENTIMENT/sst_2", {}, ok(*SST, "2", "exact", "default")),
    ("exact", "imdb", {}, ok(*IMDB, "1", "exact", "unique")),
    ("exact", "sentiment", {}, ambiguous(SST, SST_H, IMDB)),
    ("exact", "c++", {}, ok("code/c++", "@alpha/c-plus-plus", "1", "exact", "unique")),
    ("exact", "mixed.task/sub-task", {}, ok(*NAME, "RC1", "exact", "unique")),
    ("exact", "sst-2", {"model_name": B}, ok("sentiment/sst-2", "@beta/b-sst", "1.0", "exact", "unique", using="lora")),
    ("exact", "pets", {"model_name": C}, ok("vision/pets", "@beta/pets", "1", "exact", "unique", using="loreft")),
    ("exact", "art", {}, ok("exam/art", "@alpha/art", "1", "exact", "unique")),
    ("prefix", "sst", {}, ok(*SST, "2", "prefix", "default")),
    ("prefix", "ss", {}, missing()),
    ("prefix", "sst-", {}, missing()),
    ("prefix", "sst--2", {}, missing()),
    ("prefix", "c", {}, missing()),
    ("prefix", "c+", {}, missing()),
    ("prefix", "maths", {}, ambiguous(("exam/maths-1", "@alpha/maths-1"), ("exam/maths-2", "@beta/maths-2"))),
    ("prefix", "maths@beta", {}, ok("exam/maths-2", "@beta/maths-2", "1", "prefix", "namespace")),
    ("prefix", "exam/maths", {}, ambiguous(("exam/maths-1", "@alpha/maths-1"), ("exam/maths-2", "@beta/maths-2"))),
    ("prefix", "mixed/sub", {}, ok(*NAME, "RC1", "prefix", "unique")),
    ("prefix", "mixed/sub-task", {}, ok(*NAME, "RC1", "prefix", "unique")),
    ("prefix", "mixed/tas", {}, missing()),
    ("alias", "movies", {"aliases": True}, ok(*IMDB, "1", "alias", "unique")),
    ("alias", "movies", {}, missing()),
    ("alias", "Movies", {"aliases": True}, ok(*IMDB, "1", "alias", "unique")),
    ("alias", "sst", {"aliases": True}, ambiguous(("nli/rte", "@alpha/rte"), ("nli/rte", "@beta/rte"))),
    ("alias", "sst-2", {"aliases": {"sst-2": "imdb"}}, ok(*SST, "2", "exact", "default")),
    ("alias", "art", {"aliases": True}, ok("exam/art", "@alpha/art", "1", "exact", "unique")),
    ("alias", "glue/sst2", {"aliases": True}, ok(*SST, "2", "alias", "default")),
    ("alias", "glue.sst2", {"aliases": True}, missing()),
    ("alias", "opinion/movies", {"aliases": True}, ok(*IMDB, "1", "alias", "unique")),
    ("alias", "sentiment/movies", {"aliases": True}, ok(*IMDB, "1", "alias", "unique")),
    ("alias", "sentiment/english", {"aliases": True}, missing()),
    ("alias", "chain", {"aliases": True}, missing()),
    ("alias", "stars", {"aliases": True}, missing()),
    ("alias", "nowhere", {"aliases": True}, missing()),
    ("alias", "english", {"aliases": True}, ok("en/wiki", "@alpha/en", "1", "alias", "unique", using="pfeiffer+inv")),
    ("alias", "@alpha/movies", {"aliases": True}, missing()),
    ("alias", "imdb@movies", {"aliases": {"movies": "alpha"}}, missing("sentiment/imdb@alpha")),
    # type
    ("type", "en", {}, ambiguous(("en/wiki", "@alpha/en"), ("ner/en", "@beta/ner-en"))),
    ("type", "en", {"type": "text_lang"}, ok("en/wiki", "@alpha/en", "1", "exact", "unique", using="pfeiffer+inv")),
    ("type", "en", {"type": "text_task"}, ok("ner/en", "@beta/ner-en", "1", "exact", "unique")),
    ("type", "wiki", {"type": "text_task"}, missing()),
    ("type", "@alpha/en", {"type": "text_task"}, missing("@alpha/en")),
    # namespaces
    ("namespace", "rte", {}, ambiguous(("nli/rte", "@alpha/rte"), ("nli/rte", "@beta/rte"))),
    ("namespace", "rte@beta", {}, ok("nli/rte", "@beta/rte", "1", "exact", "namespace")),
    ("namespace", "nli/rte@ALPHA", {}, ok("nli/rte", "@alpha/rte", "1", "exact", "namespace")),
    ("namespace", "rte@gamma", {}, missing("nli/rte@alpha", "nli/rte@beta")),
    ("namespace", "imdb@alpha", {}, ok(*IMDB, "1", "exact", "unique")),
    ("namespace", "en@beta", {}, ok("ner/en", "@beta/ner-en", "1", "exact", "namespace")),
    ("namespace", "art@beta", {}, missing("exam/art@alpha")),
    ("namespace", "sub.task@mixed-case", {}, ok(*NAME, "RC1", "exact", "unique")),
    ("namespace", "sst-2@beta", {}, missing("sentiment/sst-2@alpha", models=(B,))),
    # defaults
    ("default", "mnli", {}, ok("nli/mnli", "@beta/mnli", "2", "exact", "default", using="houlsby")),
    ("default", "mnli@alpha", {}, ok("nli/mnli", "@alpha/mnli", "1", "exact", "namespace")),
    ("default", "rank/b", {}, ambiguous(("rank/b", "@alpha/q8"), ("rank/b", "@alpha/q2"))),
    ("default", "rank/a", {}, ok("rank/a", "@alpha/p2", "1", "exact", "default")),
    ("default", "rank", {}, ambiguous(("rank/a", "@alpha/p16"), ("rank/a", "@alpha/p8"), ("rank/a", "@alpha/p2"),
                                      ("rank/b", "@alpha/q8"), ("rank/b", "@alpha/q2"), ("rank/d", "@alpha/r16"), ("rank/d", "@beta/r8"))),
    # configs
    ("config", "sst-2", {"config": "houlsby"}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": "Houlsby"}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": "lora"}, missing("sentiment/sst-2@alpha", models=(B,))),
    ("config", "sst-2", {"config": {"using": "houlsby"}}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": {"using": "houlsby", "reduction_factor": 16.0}}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": {"using": "houlsby", "reduction_factor": 8}}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": {"using": "houlsby", "no_such_field": 1}}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": {"using": "no-such-preset"}}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": {"using": "houlsby", "mh_adapter": 1}}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": OLD_EXPANDED}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": {**OLD_EXPANDED, "leave_out": [], "inv_adapter": None}}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": {**OLD_EXPANDED, "leave_out": [0]}}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": {k: v for k, v in OLD_EXPANDED.items() if k != "ln_after"}}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": HOULSBY.expand()}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": HOULSBY.config_id}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": "b1017368d7a97b11"}, ok(*SST_H, "1", "exact", "config", using="houlsby")),
    ("config", "sst-2", {"config": digest("no config")}, missing("sentiment/sst-2@alpha")),
    ("config", "sst-2", {"config": "pfeiffer"}, ok(*SST, "2", "exact", "config")),
    ("config", "rank/a", {"config": "pfeiffer"}, ok("rank/a", "@alpha/p16", "1", "exact", "config")),
    ("config", "rank/a", {"config": {"using": "pfeiffer", "reduction_factor": 8}}, ok("rank/a", "@alpha/p8", "1", "exact", "config")),
    ("config", "rank/b", {"config": "pfeiffer"}, ambiguous(("rank/b", "@alpha/q8"), ("rank/b", "@alpha/q2"))),
    ("config", "rank/b", {"config": {"using": "pfeiffer"}}, missing("rank/b@alpha")),
    ("config", "rank/d", {"config": "pfeiffer"}, ok("rank/d", "@beta/r8", "1", "exact", "default")),
    ("config", "rank/d", {"config": {"using": "pfeiffer"}}, ok("rank/d", "@alpha/r16", "1", "exact", "config")),
    ("config", "rank/d@alpha", {"config": "pfeiffer"}, ok("rank/d", "@alpha/r16", "1", "exact", "namespace")),
    ("config", "mnli", {"config": "pfeiffer"}, ok("nli/mnli", "@alpha/mnli", "1", "exact", "config")),
    ("config", "en", {"config": "pfeiffer+inv"}, ok("en/wiki", "@alpha/en", "1", "exact", "config", using="pfeiffer+inv")),
    ("config", "@alpha/sst-2-p", {"config": "houlsby"}, missing("@alpha/sst-2-p")),
    ("config", "@alpha/sst-2-h", {"config": "houlsby"}, ok(*SST_H, "1", "exact", "unique", using="houlsby")),
    # versions
    ("version", "sst-2:1", {}, ok(*SST, "1", "exact", "default")),
    ("version", "sst-2", {"version": "1"}, ok(*SST, "1", "exact", "default")),
    ("version", "sst-2:1", {"version": "1"}, ok(*SST, "1", "exact", "default")),
    ("version", "sst-2:1", {"version": "2"}, INVALID),
    ("version", "sst-2:01", {}, no_version("1", "2", "3")),
    ("version", "imdb:2", {}, ok(*IMDB, "2", "exact", "unique")),
    ("version", "mnli:1", {}, ok("nli/mnli", "@beta/mnli", "1", "exact", "default", using="houlsby")),
    ("version", "rte:1", {}, ambiguous(("nli/rte", "@alpha/rte"), ("nli/rte", "@beta/rte"))),
    ("version", "@mixed_case/name-one:1.0-1", {}, ok(*NAME, "1.0-1", "exact", "unique")),
    ("version", "@mixed_case/name-one:1.0_1", {}, no_version("1.0.1", "1.0-1", "RC1")),
    ("version", "@mixed_case/name-one:rc1", {}, no_version("1.0.1", "1.0-1", "RC1")),
    ("version", "zones", {}, ok("time/zones", "@alpha/zones", "late", "exact", "unique")),
    ("version", "same", {}, ok("time/same", "@alpha/same", "a", "exact", "unique")),
    # yanked versions
    ("yanked", "sst-2:3", {}, ok(*SST, "3", "exact", "default")),
    ("yanked", "@alpha/sst-2-p", {}, ok(*SST, "2", "exact", "unique")),
    ("yanked", "@alpha/sst-2-p:3", {}, ok(*SST, "3", "exact", "unique")),
    ("yanked", "@alpha/gone", {}, missing()),
    ("yanked", "@alpha/gone:1", {}, ok("old/gone", "@alpha/gone", "1", "exact", "unique")),
    ("yanked", "gone", {}, ok("old/gone-by", "@beta/gone-by", "1", "prefix", "unique")),
    ("yanked", "gone:1", {}, ok("old/gone", "@alpha/gone", "1", "exact", "unique")),
    ("yanked", "half", {}, ok("old/half", "@beta/half", "1", "exact", "unique")),
    ("yanked", "half:1", {}, ambiguous(("old/half", "@alpha/half"), ("old/half", "@beta/half"))),
    ("yanked", "half@alpha", {}, missing("old/half@beta")),
    # digests
    ("digest", f"@alpha/sst-2-p@{digest('@alpha/sst-2-p:1')}", {},
     ok(*SST, "1", "exact", "unique", sha256=digest("@alpha/sst-2-p:1")[7:])),
    ("digest", f"sst-2@{digest('@alpha/sst-2-p:3')}", {},
     ok(*SST, "3", "exact", "default", sha256=digest("@alpha/sst-2-p:3")[7:])),
    ("digest", f"sst-2:2@{digest('@alpha/sst-2-p:2')}", {},
     ok(*SST, "2", "exact", "default", sha256=digest("@alpha/sst-2-p:2")[7:])),
    ("digest", f"sst-2:1@{digest('@alpha/sst-2-p:2')}", {}, {"error": "Integrity", "candidates": []}),
    ("digest", f"sst-2@{digest('another')}", {}, no_version("1", "2", "3")),
    ("digest", f"zip@{LEGACY_FILE}", {}, ok("legacy/zip", "@alpha/zip", "1", "exact", "unique", sha256=LEGACY_FILE[7:])),
    # direct references, models, hubs
    ("direct", "@ALPHA/Sst_2.P", {}, ok(*SST, "2", "exact", "unique")),
    ("direct", "@alpha/sst-2-p", {"model_name": None}, ok(*SST, "2", "exact", "unique")),
    ("direct", "@alpha/sst-2-p", {"model_name": B}, mismatch(A)),
    ("direct", "@alpha/sst-2-p:9", {"model_name": B}, mismatch(A)),
    ("direct", "@alpha/sst-2", {}, missing()),
    ("direct", "@alpha/twin", {}, ok("twin/a", "@alpha/twin", "1", "exact", "unique")),
    ("direct", "@alpha/twin", {"model_name": B}, ok("twin/a", "@alpha/twin", "2", "exact", "unique")),
    ("direct", "@alpha/twin:2", {}, no_version("1")),
    ("direct", "@beta/moved", {}, ok("moved/new", "@beta/moved", "2", "exact", "unique")),
    ("direct", "@beta/moved:1", {}, ok("moved/old", "@beta/moved", "1", "exact", "unique", using="houlsby")),
    ("direct", "@beta/moved:1", {"config": "houlsby"}, ok("moved/old", "@beta/moved", "1", "exact", "unique", using="houlsby")),
    ("direct", "@beta/moved:1", {"config": "pfeiffer"}, missing("@beta/moved")),
    ("direct", "@beta/moved", {"config": "houlsby"}, missing("@beta/moved")),
    ("direct", "@beta/moved:3", {"config": "houlsby"}, missing("@beta/moved")),
    ("direct", "@beta/moved:3", {}, no_version("1", "2")),
    ("direct", "moved", {}, ambiguous(("moved/old", "@beta/moved"), ("moved/new", "@beta/moved"))),
    ("model", "sst-2", {"model_name": "Base-A"}, missing(models=(A, B))),
    ("model", "sst-2", {"model_name": None}, INVALID),
    ("model", "imdb", {"model_name": B}, missing(models=(A,))),
    ("model", "rte@beta", {"model_name": B}, missing(models=(A,))),
    ("model", "sst", {"model_name": C}, missing(models=(A, B))),
    ("hub", "Example::sst-2", {}, ok(*SST, "2", "exact", "default", hub="example")),
    ("hub", "example::@alpha/sst-2-h", {}, ok(*SST_H, "1", "exact", "unique", using="houlsby", hub="example")),
    ("invalid", "sst 2", {}, INVALID),
    ("invalid", "@alpha/x/y", {"model_name": B}, INVALID),
]  # fmt: skip


def vectors() -> list[dict[str, Any]]:
    listed = []
    for group, ref, context, expect in CASES:
        aliases = context.get("aliases")
        full = {"model_name": A, "config": None, "version": None, "type": None, **context}
        full["aliases"] = ALIASES if aliases is True else aliases
        listed.append({"group": group, "ref": ref, **full, "expect": expect})
    return numbered("resolution", listed)


def main(folder: Path = CONFORMANCE) -> None:
    write(
        folder,
        "resolution/catalogue.json",
        {"about": "entries: index lines in the order of publication. defaults: default pointers.", "entries": ENTRIES,
         "defaults": DEFAULTS},
    )  # fmt: skip
    write(
        folder,
        "resolution/cases.json",
        {
            "about": "Resolve ref over catalogue.json in the context beside it (null: not given; aliases: the whole table). "
            "Candidates in any order; must_suggest: among the at most 5 suggestions.",
            "cases": vectors(),
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFORMANCE)
