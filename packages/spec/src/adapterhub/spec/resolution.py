"""Resolution: the one pure function from (reference, context, index entries) to one adapter version or a typed error.

The rules are SPEC.md, chapter "Resolution"; client and server both call this, so that the answer is the same offline,
online and in a static copy of the hub. In short: candidates of the model from the first tier that gives any (exact, alias
table, segment prefix); then `@namespace` filters, then the config; then one (task, subtask) must be left; then the
default pointer may decide. Nothing ever falls back silently. Standard library only, no I/O but the bundled tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapterhub.spec.config_match import ConfigFilter, config_filter, preset_name
from adapterhub.spec.entry_index import (
    Adapter,
    Defaults,
    EntryIndex,
    Pair,
    Pairs,
    default_entry,
    default_pointers,
    newest_entry,
)
from adapterhub.spec.errors import (
    AdapterNotFoundError,
    AmbiguousAdapterError,
    IntegrityError,
    InvalidReferenceError,
    ModelMismatchError,
    VersionNotFoundError,
)
from adapterhub.spec.index import IndexEntry
from adapterhub.spec.reference import AdapterReference, fold, parse_reference

__all__ = [
    "Defaults",
    "EntryIndex",
    "Resolution",
    "alias_targets",
    "default_entry",
    "load_aliases",
    "match_pairs",
    "path_targets",
    "resolve",
]

_MAX_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True)
class Resolution:
    """The one version a reference stands for, and why.

    Attributes:
        entry: the index entry of the version.
        tier: `exact`, `alias` or `prefix`: how the path matched.
        decided_by: `unique`, `namespace`, `config` or `default`: the step after which one adapter was left.
        hub: the hub the reference named, in lower case.
        sha256: the 64 hex digits the reference pinned; whoever downloads must check them.
    """

    entry: IndexEntry
    tier: str
    decided_by: str
    hub: str | None = None
    sha256: str | None = None

    @property
    def full_id(self) -> str:
        """`task/subtask@namespace`."""
        return self.entry.id

    @property
    def namespace(self) -> str:
        return self.entry.namespace

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def version(self) -> str:
        return self.entry.version

    @property
    def config(self) -> str | None:
        """The architecture or preset the adapter names; None where it names none."""
        return self.entry.using

    @property
    def digest(self) -> str | None:
        """`sha256:…` of the manifest, where the hub has one."""
        return self.entry.digest

    @property
    def model_name(self) -> str:
        return self.entry.model_name

    @property
    def adapter(self) -> str:
        """`@namespace/name`."""
        return self.entry.adapter

    @property
    def reference(self) -> str:
        """The pinned reference to write down: `@namespace/name:version`, with the hub before it where one is named and the
        manifest's digest after it where there is one."""
        hub = f"{self.hub}::" if self.hub else ""
        digest = f"@{self.entry.digest}" if self.entry.digest else ""
        return f"{hub}{self.entry.adapter}:{self.entry.version}{digest}"

    def to_json(self) -> dict[str, Any]:
        """The members of the hub's answer to `/v1/resolve`."""
        return {
            "full_id": self.full_id,
            "namespace": self.namespace,
            "name": self.name,
            "version": self.version,
            "config": self.config,
            "digest": self.digest,
            "tier": self.tier,
            "decided_by": self.decided_by,
            "hub": self.hub,
            "sha256": self.sha256,
            "model_name": self.model_name,
            "reference": self.reference,
            "entry": self.entry.to_json(),
        }


def resolve(
    ref: str | AdapterReference,
    entries: EntryIndex | Iterable[IndexEntry],
    *,
    model_name: str | None = None,
    config: Any = None,
    version: str | None = None,
    type: str | None = None,
    aliases: Mapping[str, str] | None = None,
    defaults: Defaults | None = None,
    architectures: Mapping[str, Mapping[str, Any]] | None = None,
) -> Resolution:
    """The one version `ref` stands for among `entries`.

    Args:
        ref: a reference, as text or parsed.
        entries: index entries, or an `EntryIndex` of them (build one to resolve more than once).
        model_name: the base model; needed for everything but `@namespace/name`. Compared exactly.
        config: keeps adapters with this config only: an architecture or preset name (exact), a config id (`sha256:…`, or
            16 hex digits of the 2020 hub), `{"using": name, …overrides}`, an expanded config, or a config object.
        version: the same as `:version` in the reference.
        type: keeps adapters of this type only (`text_task`, `text_lang`).
        aliases: other words for tasks and subtasks; only these apply. `load_aliases()` gives the table of the spec.
        defaults: default pointers, (model, task, subtask) → "@namespace/name".
        architectures: configs by architecture name, besides the presets of the spec.

    Raises:
        InvalidReferenceError: no reference, or a path without a model.
        ModelMismatchError: `@namespace/name` was made for another model (`details["adapter_model"]`).
        AdapterNotFoundError: nothing left; `suggestions`, and `details["models"]`: the models that do have it.
        AmbiguousAdapterError: several left; `candidates` lists them all.
        VersionNotFoundError: the adapter has no such version; `candidates` lists those it has.
        IntegrityError: the version asked for has another digest than the reference pins.
        InvalidConfigError: `config` is text in brackets that is no preset string.
    """
    reference = parse_reference(ref)
    if version is not None:
        if reference.version not in (None, version):
            raise InvalidReferenceError(
                f"The reference asks for version {reference.version!r} and the call for {version!r}.",
                hint="Give the version once.",
            )
    else:
        version = reference.version
    index = entries if isinstance(entries, EntryIndex) else EntryIndex(entries)
    keep = config_filter(config, architectures)
    pinned = version is not None or reference.digest is not None
    query = _Query(reference, index, keep, type, pinned, _fold_aliases(aliases))
    pointers = index.defaults if defaults is None else default_pointers(defaults)
    if reference.is_direct:
        adapter, tier, decided_by = query.direct(model_name, version)
    else:
        adapter, tier, decided_by = query.path(model_name, pointers)
    entry = _choose_version(adapter, version, reference.digest)
    if keep is not None and not keep.keeps(entry):
        raise _not_found(
            f"Version {entry.version} of {entry.adapter} has another config than asked for.", [entry.adapter]
        )
    sha256 = reference.digest.partition(":")[2] if reference.digest else None
    return Resolution(entry, tier, decided_by, hub=reference.hub, sha256=sha256)


def alias_targets(reference: AdapterReference, aliases: Mapping[str, str]) -> list[str]:
    """What the alias table makes of a path, folded, in the order to try: the whole path first, then its parts."""
    return path_targets(fold(reference.path or ""), _fold_aliases(aliases))


def match_pairs(
    reference: AdapterReference, pairs: Iterable[tuple[str, str]], aliases: Mapping[str, str] | None = None
) -> tuple[str | None, list[tuple[str, str]]]:
    """The tier that gives any, and the (task, subtask) pairs it gives, out of `pairs`; (None, []) if none does."""
    table = Pairs()
    spelt: dict[Pair, list[tuple[str, str]]] = {}
    for task, subtask in pairs:
        key = (fold(task), fold(subtask))
        table.add(key)
        spelt.setdefault(key, []).append((task, subtask))
    for tier, keys in _tiers(reference, table, _fold_aliases(aliases)):
        found = [pair for key in keys for pair in spelt[key]]
        if found:
            return tier, found
    return None, []


def load_aliases() -> dict[str, str]:
    """The alias table of the spec (`spec/aliases.json`): other words people use for tasks and data sets. `resolve` applies
    only the table it is given; hubs and clients give it this one unless told otherwise."""
    import json
    from importlib import resources

    data = resources.files("adapterhub.spec") / "data" / "aliases.json"
    table: dict[str, str] = json.loads(data.read_text(encoding="utf-8"))
    return table


class _Query:
    """One reference against one index."""

    def __init__(
        self,
        reference: AdapterReference,
        index: EntryIndex,
        keep: ConfigFilter | None,
        type: str | None,
        pinned: bool,
        aliases: FoldedAliases,
    ) -> None:
        self.reference = reference
        self.index = index
        self.keep = keep
        self.type = type
        self.pinned = pinned
        self.aliases = aliases
        self.namespace = fold(reference.namespace) if reference.namespace is not None else None

    def visible(self, adapter: Adapter) -> bool:
        return bool(adapter.versions) and self.type in (None, adapter.type) and (self.pinned or adapter.live)

    def direct(self, model_name: str | None, version: str | None) -> tuple[Adapter, str, str]:
        """`@namespace/name`: one adapter with all its versions, which the model, the type and the config must then fit."""
        assert self.reference.name is not None
        key = (self.namespace or "", fold(self.reference.name))
        spelt = f"@{self.reference.namespace}/{self.reference.name}"
        versions = self.index.names.get(key)
        if not versions:
            raise _not_found(f"There is no adapter {spelt}.", self._close_names(spelt))
        of_model = [entry for entry in versions.values() if model_name in (None, entry.model_name)]
        if not of_model:
            made = default_entry(versions.values()) or newest_entry(versions.values())
            raise ModelMismatchError(
                f"{made.adapter} was made for {made.model_name}, not for {model_name}.",
                hint=f"Load {made.model_name}, or look for the same task and subtask made for {model_name}.",
                details={"adapter_model": made.model_name},
            )
        adapter = Adapter(key, ("", ""), "")
        for entry in of_model:
            adapter.add(entry)
        if not (self.pinned or adapter.live):
            hint = "A yanked version is still there for references that name it (:version)."
            raise _not_found(f"Every version of {adapter.default.adapter} is yanked.", [], hint=hint)
        asked = adapter.versions.get(version or "", adapter.default)
        if self.type not in (None, asked.type) or (self.keep is not None and not self.keep.keeps(asked)):
            what = "type" if self.type not in (None, asked.type) else "config"
            raise _not_found(f"{asked.adapter} has another {what} than asked for.", [asked.adapter])
        return adapter, "exact", "unique"

    def path(self, model_name: str | None, defaults: Mapping[tuple[str, str, str], str]) -> tuple[Adapter, str, str]:
        """`task/subtask` or a word: tiers, then the filters, then the default pointer."""
        if model_name is None:
            raise InvalidReferenceError(
                f"{str(self.reference)!r} needs to know the base model.",
                hint="Give model_name, or address one adapter as @namespace/name.",
            )
        found, tier = self.candidates(model_name)
        if not found:
            raise self._nothing(model_name, [])
        if len(found) == 1 and self.namespace in (None, found[0].namespace) and self._kept(found):
            return found[0], tier, "unique"
        left = [adapter for adapter in found if self.namespace in (None, adapter.namespace)]
        if not left:
            raise self._nothing(model_name, found)
        if len(left) == 1 and self._kept(left):
            return left[0], tier, "namespace"
        before, left = left, self._kept(left)
        if not left:
            raise self._nothing(model_name, before)
        if len(left) == 1:
            return left[0], tier, "config"
        pairs = {adapter.key for adapter in left}
        if len(pairs) == 1:
            [pair] = pairs
            pointer = defaults.get((model_name, *pair))
            if pointer is not None:
                chosen = [adapter for adapter in left if "@{}/{}".format(*adapter.name_key) == pointer]
                if len(chosen) == 1:
                    return chosen[0], tier, "default"
        raise self._ambiguous(model_name, left, len(pairs))

    def candidates(self, model_name: str) -> tuple[list[Adapter], str]:
        """The adapters of the first tier that gives any, and the tier."""
        table = self.index.models.get(model_name)
        if table is not None:
            for tier, keys in _tiers(self.reference, table, self.aliases):
                found = [adapter for key in keys for adapter in table.adapters[key].values() if self.visible(adapter)]
                if found:
                    return found, tier
        return [], ""

    def _kept(self, adapters: list[Adapter]) -> list[Adapter]:
        """Those with the config asked for. A bare name prefers the one without overrides, among adapters of one
        (task, subtask) and one publisher only: it never chooses between tasks or publishers."""
        if self.keep is None:
            return adapters
        kept = [adapter for adapter in adapters if self.keep.keeps(adapter.default)]
        if len(kept) > 1 and self.keep.name is not None and len({(a.key, a.namespace) for a in kept}) == 1:
            return [adapter for adapter in kept if self.keep.is_plain(adapter.default)] or kept
        return kept

    def _nothing(self, model_name: str, before: list[Adapter]) -> AdapterNotFoundError:
        """`before`: what was left before `@namespace` or the config removed it."""
        suggestions = list(dict.fromkeys(sorted(adapter.default.id for adapter in before)))[:_MAX_SUGGESTIONS]
        models = [model for model in self.index.model_names if model != model_name and self._leaves_any(model)]
        spelt = self.reference.path
        if before and self.namespace not in {None, *(adapter.namespace for adapter in before)}:
            message = f"@{self.reference.namespace} has no {spelt!r} for {model_name}."
        elif before:
            message = f"No {spelt!r} for {model_name} has the config asked for."
            return _not_found(message, suggestions, models=models, hint=self._configs_hint(before, suggestions))
        else:
            message = f"There is no {spelt!r} for {model_name}."
            suggestions = self._close_paths(model_name)
        return _not_found(message, suggestions, models=models)

    def _configs_hint(self, before: list[Adapter], suggestions: list[str]) -> str:
        """Which configs there are, and whether the name asked for is another name of one of them."""
        there = sorted({adapter.default.using or adapter.default.method for adapter in before})
        hint = f"{', '.join(suggestions)}: there with {_some(there)}."
        asked = self.keep.name if self.keep is not None else None
        own = preset_name(asked) if asked is not None else None
        return f"{hint} {asked!r} is another name of {own!r}; configs are asked for by that." if own in there else hint

    def _leaves_any(self, model_name: str) -> bool:
        found, _ = self.candidates(model_name)
        left = [adapter for adapter in found if self.namespace in (None, adapter.namespace)]
        return bool(self._kept(left))

    def _ambiguous(self, model_name: str, left: list[Adapter], pairs: int) -> AmbiguousAdapterError:
        return ambiguous(self.reference, model_name, [adapter.candidate for adapter in left], pairs)

    def _close_paths(self, model_name: str) -> list[str]:
        table = self.index.models.get(model_name)
        if table is None:
            return []
        words: dict[str, list[Pair]] = {}
        for key in table.adapters:
            for word in {"/".join(key)} if self.reference.task is not None else {*key}:
                words.setdefault(word, []).append(key)
        found: dict[str, None] = {}
        for word in _closest(fold(self.reference.path or ""), words):
            for key in words[word]:
                for adapter in table.adapters[key].values():
                    if self.visible(adapter):
                        found[adapter.default.id] = None
        return list(found)[:_MAX_SUGGESTIONS]

    def _close_names(self, spelt: str) -> list[str]:
        names = {f"@{namespace}/{name}": versions for (namespace, name), versions in self.index.names.items()}
        same = [name for name in names if name.startswith(f"@{self.namespace}/")]
        return [next(iter(names[name].values())).adapter for name in _closest(fold(spelt), same or names)]


def ambiguous(
    reference: AdapterReference, model_name: str, candidates: Iterable[dict[str, str]], pairs: int
) -> AmbiguousAdapterError:
    """The error that lists what a path may mean.

    Args:
        candidates: `{"id": "task/subtask@ns", "adapter": "@ns/name"}`, each.
        pairs: how many (task, subtask) they are of.
    """
    found = sorted(candidates, key=lambda one: (one["id"], one["adapter"]))
    listed = ", ".join(f"{one['adapter']} ({one['id']})" for one in found[:10])
    more = f", and {len(found) - 10} more" if len(found) > 10 else ""
    means = f"{pairs} tasks" if pairs > 1 else f"{len(found)} adapters"
    ways = "task/subtask, " if pairs > 1 else ""
    return AmbiguousAdapterError(
        f"{str(reference)!r} means {means} for {model_name}: {listed}{more}.",
        hint=f"Write one of them as @namespace/name, or narrow it down by {ways}@namespace or config.",
        candidates=found,
    )


def _tiers(reference: AdapterReference, table: Pairs, aliases: FoldedAliases) -> Iterator[tuple[str, Iterable[Pair]]]:
    path = fold(reference.path or "")
    yield "exact", table.find(path, prefix=False)
    for target in path_targets(path, aliases):
        yield "alias", table.find(target, prefix=False)
    yield "prefix", table.find(path, prefix=True)


def path_targets(path: str, aliases: FoldedAliases) -> list[str]:
    """What the alias table makes of a folded path or word, in the order to try: the whole first, then its parts."""
    targets = [aliases[path]] if path in aliases else []
    if "/" in path:
        parts = path.split("/")
        replaced = [part if "/" in aliases.get(part, part) else aliases.get(part, part) for part in parts]
        if replaced != parts:
            targets.append("/".join(replaced))
    return targets


class FoldedAliases(dict[str, str]):
    """An alias table whose keys and targets are folded already: for those who resolve often."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        super().__init__({fold(key): fold(target) for key, target in aliases.items()})


def _fold_aliases(aliases: Mapping[str, str] | None) -> FoldedAliases:
    return aliases if isinstance(aliases, FoldedAliases) else FoldedAliases(aliases or {})


def _choose_version(adapter: Adapter, version: str | None, digest: str | None) -> IndexEntry:
    entries = adapter.versions
    name = adapter.default.adapter
    if version is not None and version not in entries:
        close = [other for other in entries if other.lower() == version.lower()]
        raise VersionNotFoundError(
            f"{name} has no version {version!r}; it has {_some(list(entries))}.",
            hint="Versions are compared exactly." if close else "Leave the version out for the default one.",
            candidates=list(entries),
            suggestions=close,
        )
    if digest is None:
        return adapter.default if version is None else entries[version]
    asked = list(entries.values()) if version is None else [entries[version]]
    fitting = [entry for entry in asked if digest in _digests(entry)]
    if fitting:
        return adapter.default if adapter.default in fitting else fitting[-1]
    unknown = [entry for entry in asked if not _digests(entry)]
    if unknown:  # nothing to compare with: whoever downloads checks the bytes
        return adapter.default if adapter.default in unknown else unknown[-1]
    if version is not None:
        raise IntegrityError(
            f"Version {version} of {name} has another digest than the reference pins.",
            hint="The reference was written for other content, or the hub was changed; do not use it unchecked.",
            details={"expected": digest, "found": sorted(_digests(entries[version]))},
        )
    raise VersionNotFoundError(
        f"{name} has no version with {digest}; it has {_some(list(entries))}.", candidates=list(entries)
    )


def _digests(entry: IndexEntry) -> set[str]:
    known = {entry.digest} if entry.digest else set()
    return known | {f"sha256:{file['sha256']}" for file in entry.files if isinstance(file.get("sha256"), str)}


def _not_found(
    message: str, suggestions: list[str], *, models: list[str] | None = None, hint: str = ""
) -> AdapterNotFoundError:
    if not hint and suggestions:
        hint = f"Close: {', '.join(suggestions)}."
    if models:
        hint = f"{hint} Models that have it: {_some(models)}.".strip()
    return AdapterNotFoundError(message, hint=hint, suggestions=suggestions, details={"models": models or []})


def _closest(word: str, words: Iterable[str], limit: int = _MAX_SUGGESTIONS) -> list[str]:
    """The most similar words, by difflib's ratio, out of those that share enough letter pairs to be worth comparing."""
    import difflib

    grams = {word[at : at + 2] for at in range(len(word) - 1)} or {word}
    shared = [(sum(gram in other for gram in grams), other) for other in words if abs(len(other) - len(word)) <= 12]
    likely = [other for count, other in sorted(shared, key=lambda pair: (-pair[0], pair[1]))[:200] if count]
    return difflib.get_close_matches(word, likely, n=limit, cutoff=0.6)


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f", and {len(names) - 10} more" if len(names) > 10 else "")
