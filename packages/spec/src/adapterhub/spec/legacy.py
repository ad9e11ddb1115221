"""The YAML catalogue of the 2020 hub, read into ours, with a record of every repair.

`read_legacy_catalogue(folder)` takes the tree as it was committed: `adapters/<organisation>/*.yaml`, `tasks/<type>/`,
`subtasks/<type>/`, `architectures/`, `adapter_types/` and the generated index `dist/v2/index`, from which the default
pointers come (they depended on the order of the file system, so the committed ones are the only true ones).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from adapterhub.spec.catalogue import (
    AdapterRecord,
    AdapterType,
    AdapterTypeRecord,
    Architecture,
    Catalogue,
    Dependency,
    Language,
    Metric,
    Organisation,
    Repair,
    Subtask,
    Task,
    VersionRecord,
)
from adapterhub.spec.config import AdapterConfig, validated
from adapterhub.spec.errors import AdapterHubError, ValidationFailedError
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.legacy_fields import (
    contact_flaw,
    github_handle,
    hub_config_id,
    language_tag,
    language_tags,
    mentions_score,
    twitter_handle,
)
from adapterhub.spec.legacy_records import (
    LegacyAdapter,
    LegacyAdapterType,
    LegacyArchitecture,
    LegacyFile,
    LegacyRecord,
    LegacySubtask,
    LegacyTask,
    name_of,
    read_legacy_record,
)
from adapterhub.spec.reference import fold
from adapterhub.spec.resolution import EntryIndex, resolve
from adapterhub.spec.validation.problem import Problem

__all__ = ["REPAIR_KINDS", "read_legacy_catalogue", "repair_report"]

#: What each kind of repair means.
REPAIR_KINDS: dict[str, str] = {
    "bytes-missing": "The file is recorded by url and checksum only: listed as unavailable until its bytes are supplied.",
    "contact-incomplete": "The e-mail address has no top-level domain: kept as text, never published as an address.",
    "contact-misspelt": "The e-mail address is misspelt: kept as text, never published as an address.",
    "contact-several": "The e-mail member holds several addresses: kept as text, never published as an address.",
    "default-order": "Which adapter was the default depended on the order of files: the committed pointer is kept.",
    "default-dangling": "The default pointer names an adapter that is not there: dropped.",
    "dependency": "The dependency is written as a reference, not as organisation/file: resolved for the same model.",
    "dependency-dangling": "The dependency names no adapter that is there: dropped.",
    "empty-text": "An empty text stands for an absent one: dropped.",
    "file-name": "The file is named otherwise than what it describes: the member counts.",
    "handle-github": "The GitHub member is an address: the handle is kept.",
    "handle-twitter": "The Twitter member is an address, or lacks the @: the handle is kept.",
    "head-on-language-adapter": "A language adapter claims a prediction head: kept as recorded.",
    "inverse-adapter-unrecorded": "A language adapter's recorded config has no invertible block though its files do: the"
    " config of the files counts once they are supplied.",
    "language": "The task is a language: its BCP 47 tag is kept beside it.",
    "language-name": "The language is a name or a list: replaced by BCP 47 tags.",
    "metric-name": "The metric is spelt in several ways: one spelling is kept.",
    "score-in-prose": "A score stands in the description: left as text, no metric is guessed.",
    "task-id": "The id has a character no reference can hold: removed.",
    "unused-subtask": "No adapter has this subtask: kept as vocabulary.",
    "unused-task": "No adapter has this task: kept as vocabulary.",
    "versions-are-datasets": "The versions are different data sets: kept as versions; they could be adapters of their own.",
    "white-space": "White space stands around an address: removed.",
    "whole-number": "A whole number is written as a float: made an integer; the old config id is kept as an alias.",
}

_MANY_VERSIONS = 20
_METRIC_SPELLING = {"f1": "F1"}
_Record = TypeVar("_Record", bound=LegacyRecord)


def read_legacy_catalogue(folder: str | Path) -> Catalogue:
    """The catalogue in `folder`, repaired. Reads only inside the folder; follows no link and no url.

    Raises:
        FileNotFoundError: the folder has no `adapters` folder.
        ValidationFailedError: files that cannot be read as what they should be; `problems` lists every one.
    """
    return _Reader(Path(folder)).read()


def repair_report(repairs: Iterable[Repair]) -> str:
    """The repairs as a Markdown report: a table of kinds with counts, then every repair by kind."""
    by_kind: dict[str, list[Repair]] = {}
    for repair in repairs:
        by_kind.setdefault(repair.kind, []).append(repair)
    lines = ["# Repairs", "", "| kind | count | meaning |", "|---|---:|---|"]
    lines += [f"| {kind} | {len(found)} | {REPAIR_KINDS.get(kind, '')} |" for kind, found in sorted(by_kind.items())]
    for kind, found in sorted(by_kind.items()):
        lines += ["", f"## {kind}", ""]
        lines += [f"- `{one.where}`: {_shown(one.before)} {_outcome(one)}" for one in found]
    return "\n".join(lines) + "\n"


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.repairs: list[Repair] = []
        self.configs: dict[str, AdapterConfig] = {}

    def read(self) -> Catalogue:
        if not (self.folder / "adapters").is_dir():
            raise FileNotFoundError(f"{self.folder} has no folder 'adapters': it is no catalogue of the 2020 hub.")
        types = [
            AdapterTypeRecord(id=raw.id, display_name=raw.displayname, description=raw.description.strip())
            for _, raw in self.files("adapter_types", LegacyAdapterType)
        ]
        raw_architectures = [raw for _, raw in self.files("architectures", LegacyArchitecture)]
        raw_adapters = list(self.files("adapters", LegacyAdapter))
        own_configs = {raw.name: raw.config for raw in raw_architectures}
        architectures = [found for raw in raw_architectures if (found := self.architecture(raw)) is not None]
        raw_subtasks = list(self.files("subtasks", LegacySubtask))
        subtask_languages = {
            (fold(raw.task), fold(raw.subtask)): language_tags(raw.language or "") for _, raw in raw_subtasks
        }
        adapters: list[AdapterRecord] = []
        for where, raw in raw_adapters:
            adapter = self.adapter(where, raw, own_configs, subtask_languages)
            if adapter is not None:
                adapters.append(adapter)
        self.refuse_if_broken()
        used_tasks: set[tuple[str, str]] = {(raw.type, fold(raw.task)) for _, raw in raw_adapters}
        used_pairs: set[tuple[str, str, str]] = {
            (raw.type, fold(raw.task), fold(raw.subtask)) for _, raw in raw_adapters
        }
        tasks = [self.task(where, raw, used_tasks) for where, raw in self.files("tasks", LegacyTask)]
        subtasks = [self.subtask(where, raw, used_pairs) for where, raw in raw_subtasks]
        entries = [entry for adapter in adapters for entry in _entries(adapter)]
        defaults = self.defaults(adapters)
        adapters = self.with_dependencies(adapters, raw_adapters, entries, defaults)
        self.refuse_if_broken()
        return Catalogue(
            entries=entries,
            adapters=adapters,
            types=types,
            tasks=tasks,
            subtasks=subtasks,
            languages=[
                Language(tag=task.language, name=task.display_name, task=task.task) for task in tasks if task.language
            ],
            architectures=architectures,
            organisations=_organisations(adapters),
            defaults=defaults,
            repairs=self.repairs,
        )

    def files(self, kind: str, model: type[_Record]) -> Iterator[tuple[str, _Record]]:
        """Every file of a kind with its path within the catalogue, in the order of the paths."""
        pattern = "*" if kind in ("architectures", "adapter_types") else "*/*"
        found = (self.folder / kind).glob(pattern)
        paths = sorted(path for path in found if path.suffix in (".yaml", ".yml") and not path.is_symlink())
        for path in paths:
            where = path.relative_to(self.folder).as_posix()
            record, problems, repairs = read_legacy_record(path.read_bytes(), model, where)
            self.problems += problems
            self.repairs += repairs
            if isinstance(record, model):
                yield where, record

    def refuse_if_broken(self) -> None:
        if self.problems:
            shown = "; ".join(str(problem) for problem in self.problems[:5])
            more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
            raise ValidationFailedError(
                f"The catalogue has {len(self.problems)} problems: {shown}{more}.", problems=self.problems
            )

    def folder_type(self, where: str) -> AdapterType:
        """The type, which tasks and subtasks have from their folder."""
        folder = where.split("/")[1]
        if folder not in ("text_task", "text_lang"):
            message = f"The folder {folder!r} is no adapter type."
            self.problems.append(Problem("", message, "Known: text_task, text_lang.", file=where))
        return "text_lang" if folder == "text_lang" else "text_task"

    def repair(self, kind: str, where: str, before: Any, after: Any = None) -> None:
        self.repairs.append(Repair(kind, where, before, after))

    def text(self, where: str, member: str, text: str | None) -> str | None:
        """`text` trimmed; an empty one is dropped."""
        if text is not None and not text.strip():
            self.repair("empty-text", f"{where}#/{member}", text)
            return None
        return text.strip() if text is not None else None

    def config(self, where: str, fields: dict[str, Any]) -> AdapterConfig | None:
        key = json.dumps(fields, sort_keys=True)
        if key not in self.configs:
            try:
                self.configs[key] = validated({"method": "bottleneck", **fields})
            except AdapterHubError as error:
                self.problems.append(Problem("/config", error.message, error.hint, file=where))
                return None
        return self.configs[key]

    def architecture(self, raw: LegacyArchitecture) -> Architecture | None:
        config = self.config(f"architectures/{raw.name}", raw.config)
        if config is None:
            return None
        return Architecture(
            name=raw.name,
            display_name=raw.displayname,
            description=raw.description.strip(),
            citation=(raw.citation or "").strip() or None,
            config=config.expand(),
            config_id=config.config_id,
        )

    def task(self, where: str, raw: LegacyTask, used: set[tuple[str, str]]) -> Task:
        kind = self.folder_type(where)
        name = raw.task
        if name_of(where) != name:
            self.repair("file-name", where, name_of(where), name)
        unused = (kind, fold(name)) not in used
        if unused:
            self.repair("unused-task", where, name, name)
        tag = None
        if kind == "text_lang":
            tag = language_tag(raw.task)
            self.repair("language", f"{where}#/task", raw.task, tag)
        return Task(
            task=name,
            type=kind,
            display_name=raw.displayname.strip(),
            description=raw.description.strip(),
            language=tag,
            unused=unused,
        )

    def subtask(self, where: str, raw: LegacySubtask, used: set[tuple[str, str, str]]) -> Subtask:
        kind = self.folder_type(where)
        if name_of(where) not in (f"{raw.task}_{raw.subtask}", f"{raw.task}-{raw.subtask}", raw.subtask):
            self.repair("file-name", where, name_of(where), f"{raw.task}/{raw.subtask}")
        unused = (kind, fold(raw.task), fold(raw.subtask)) not in used
        if unused:
            self.repair("unused-subtask", where, f"{raw.task}/{raw.subtask}", f"{raw.task}/{raw.subtask}")
        language = self.text(where, "language", raw.language)
        languages = language_tags(language or "")
        if language is not None and languages != (language,):
            self.repair("language-name", f"{where}#/language", language, list(languages))
        if kind == "text_lang" and not languages:
            tag = language_tag(raw.task)
            languages = (tag,) if tag else ()
        metric = None
        if raw.metric is not None:
            name = _METRIC_SPELLING.get(raw.metric.name, raw.metric.name)
            if name != raw.metric.name:
                self.repair("metric-name", f"{where}#/metric/name", raw.metric.name, name)
            metric = Metric(name=name, higher_is_better=raw.metric.higher_is_better)
        return Subtask(
            task=raw.task,
            subtask=raw.subtask,
            type=kind,
            display_name=(raw.displayname or "").strip(),
            description=raw.description.strip(),
            url=self.text(where, "url", raw.url),
            citation=self.text(where, "citation", raw.citation),
            languages=languages,
            hf_dataset=raw.hf_datasets_id,
            metric=metric,
            unused=unused,
        )

    def adapter(
        self,
        where: str,
        raw: LegacyAdapter,
        architectures: dict[str, dict[str, Any]],
        languages: dict[tuple[str, str], tuple[str, ...]],
    ) -> AdapterRecord | None:
        own = architectures.get(raw.config.using)
        if own is None:
            known = ", ".join(sorted(architectures))
            message = f"There is no architecture {raw.config.using!r}."
            self.problems.append(Problem("/config/using", message, f"Known: {known}.", file=where))
            return None
        overrides = raw.config.model_dump(exclude={"using"}, exclude_none=True)
        config = self.config(where, {**own, **overrides})
        if config is None:
            return None
        factor = raw.config.reduction_factor
        if isinstance(factor, float) and factor.is_integer():
            self.repair("whole-number", f"{where}#/config/reduction_factor", factor, int(factor))
        is_language = raw.type == "text_lang"
        whole = not is_language or config.expand().get("inv_adapter") is not None
        if not whole:
            self.repair("inverse-adapter-unrecorded", f"{where}#/config", raw.config.using, raw.config.using)
        if is_language and raw.prediction_head:
            self.repair("head-on-language-adapter", f"{where}#/prediction_head", True, True)
        versions = [self.version(f"{where}#/files/{position}", item) for position, item in enumerate(raw.files)]
        if len(versions) > _MANY_VERSIONS:
            before = f"{len(versions)} versions of {raw.task}/{raw.subtask}"
            after = f"kept; the alternative is one adapter each, {raw.task}/{versions[0].version} and so on"
            self.repair("versions-are-datasets", f"{where}#/files", before, after)
        if raw.description and mentions_score(raw.description):
            self.repair("score-in-prose", f"{where}#/description", raw.description.strip(), raw.description.strip())
        tags = (language_tag(raw.task),) if is_language else languages.get((fold(raw.task), fold(raw.subtask)), ())
        try:
            return AdapterRecord(
                namespace=where.split("/")[1],
                name=name_of(where),
                type=raw.type,
                task=raw.task,
                subtask=raw.subtask,
                model_name=raw.model_name,
                model_type=raw.model_type,
                model_class=raw.model_class,
                prediction_head=raw.prediction_head,
                hidden_size=raw.hidden_size,
                using=raw.config.using,
                config=config.expand(),
                config_id=config.config_id,
                legacy_config_id=hub_config_id({**own, **overrides}),
                config_complete=whole,
                default_version=raw.default_version,
                versions=tuple(versions),
                author=raw.author.strip(),
                contact_legacy=self.contact(where, raw.email),
                url=self.text(where, "url", raw.url),
                github=self.handle(where, "github", raw.github),
                twitter=self.handle(where, "twitter", raw.twitter),
                citation=self.text(where, "citation", raw.citation),
                description=self.text(where, "description", raw.description) or "",
                language=tags[0] if len(tags) == 1 else None,
            )
        except ValidationError as error:
            for details in error.errors(include_url=False):
                pointer = "".join(f"/{step}" for step in details["loc"])
                self.problems.append(Problem(pointer, f"{details['msg']}.", file=where))
            return None

    def version(self, where: str, raw: LegacyFile) -> VersionRecord:
        self.repair("bytes-missing", where, raw.url, raw.url)
        if raw.description and mentions_score(raw.description):
            self.repair("score-in-prose", f"{where}/description", raw.description.strip(), raw.description.strip())
        return VersionRecord(
            version=raw.version,
            url=raw.url,
            sha1=raw.sha1.lower() if raw.sha1 else None,
            sha256=raw.sha256.lower() if raw.sha256 else None,
            description=(raw.description or "").strip(),
            score=raw.score,
        )

    def contact(self, where: str, email: str | None) -> str | None:
        flaw = contact_flaw(email) if email else None
        if flaw is not None:
            self.repair(flaw, f"{where}#/email", email, email)
        return email or None

    def handle(self, where: str, member: str, text: str | None) -> str | None:
        if not text:
            return None
        handle = github_handle(text) if member == "github" else twitter_handle(text)
        plain = text if member == "github" else text.removeprefix("@")
        if handle != plain or (member == "twitter" and not text.startswith("@")):
            self.repair(f"handle-{member}", f"{where}#/{member}", text, handle)
        return handle

    def defaults(self, adapters: list[AdapterRecord]) -> dict[tuple[str, str, str], str]:
        """The committed default pointers; and which of them depended on the order of files."""
        known = {adapter.adapter: adapter for adapter in adapters}
        found: dict[tuple[str, str, str], str] = {}
        top = self.folder / "dist" / "v2" / "index"
        for path in sorted(top.rglob("*.json")) if top.is_dir() else ():
            model = path.relative_to(top).as_posix().removesuffix(".json")
            where = path.relative_to(self.folder).as_posix()
            for task, subtask, pointer in self.pointers(path, where):
                parts = pointer.removesuffix(".json").split("/")
                adapter = f"@{parts[-2]}/{parts[-1]}" if len(parts) >= 2 else pointer
                if adapter in known:
                    found[model, task, subtask] = adapter
                else:
                    self.repair("default-dangling", f"{where}#/{task}/{subtask}/default", pointer)
        for (model, task, subtask), adapter in found.items():
            same = [a for a in adapters if (a.model_name, a.task, a.subtask) == (model, task, subtask)]
            preferred = [one for one in same if one.using == "pfeiffer"]
            if len(preferred) > 1 or (not preferred and len(same) > 1):
                self.repair("default-order", f"dist/v2/index/{model}.json#/{task}/{subtask}/default", adapter, adapter)
        return found

    def pointers(self, path: Path, where: str) -> Iterator[tuple[str, str, str]]:
        try:
            document = json.loads(path.read_bytes())
            for task, subtasks in document.items():
                for subtask, configs in subtasks.items():
                    if isinstance(configs.get("default"), str):
                        yield task, subtask, configs["default"]
        except (ValueError, AttributeError, RecursionError) as error:
            self.problems.append(Problem("", f"The generated index cannot be read: {error}.", file=where))

    def with_dependencies(
        self,
        adapters: list[AdapterRecord],
        raw_adapters: list[tuple[str, LegacyAdapter]],
        entries: list[IndexEntry],
        defaults: dict[tuple[str, str, str], str],
    ) -> list[AdapterRecord]:
        """The adapters with their dependencies resolved for their own model."""
        index = EntryIndex(entries, defaults)
        names = {fold(adapter.adapter) for adapter in adapters}
        raw_of = {_adapter_of(where): (where, raw) for where, raw in raw_adapters}
        done: list[AdapterRecord] = []
        for adapter in adapters:
            where, raw = raw_of[adapter.adapter]
            found: list[Dependency] = []
            for position, item in enumerate(raw.dependencies):
                place = f"{where}#/dependencies/{position}/key"
                key = f"@{item.key}" if f"@{fold(item.key)}" in names else item.key
                try:
                    resolution = resolve(key, index, model_name=adapter.model_name)
                except AdapterHubError:
                    self.repair("dependency-dangling", place, item.key)
                    continue
                found.append(
                    Dependency(
                        adapter=resolution.adapter,
                        id=resolution.full_id,
                        version=resolution.version,
                        sha256=next(iter(resolution.entry.files), {}).get("sha256"),
                        description=(item.description or "").strip(),
                    )
                )
                if key == item.key:
                    self.repair("dependency", place, item.key, f"{resolution.adapter}:{resolution.version}")
            done.append(adapter.model_copy(update={"dependencies": tuple(found)}) if found else adapter)
        return done


def _adapter_of(where: str) -> str:
    return f"@{where.split('/')[1]}/{name_of(where)}"


def _entries(adapter: AdapterRecord) -> Iterator[IndexEntry]:
    for version in adapter.versions:
        file = {"url": version.url, "sha1": version.sha1, "sha256": version.sha256, "score": version.score}
        yield IndexEntry(
            namespace=adapter.namespace,
            name=adapter.name,
            version=version.version,
            model_name=adapter.model_name,
            task=adapter.task,
            subtask=adapter.subtask,
            type=adapter.type,
            method="bottleneck",
            using=adapter.using,
            config=adapter.config,
            config_id=adapter.config_id,
            legacy_config_id=adapter.legacy_config_id,
            default_version=adapter.default_version,
            hidden_size=adapter.hidden_size,
            language=adapter.language,
            files=({key: value for key, value in file.items() if value is not None},),
            status="unavailable",
        )


def _organisations(adapters: list[AdapterRecord]) -> list[Organisation]:
    names = sorted({adapter.namespace for adapter in adapters})
    counts = {name: sum(adapter.namespace == name for adapter in adapters) for name in names}
    return [Organisation(namespace=name, display_name=name, adapters=counts[name]) for name in names]


def _outcome(repair: Repair) -> str:
    if repair.after is None:
        return "dropped"
    same = repr(repair.after) == repr(repair.before)  # 2 and 2.0 are not
    return "kept" if same else f"→ {_shown(repair.after)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return f"`{text if len(text) <= 160 else text[:157] + '...'}`"
