// Resolution (SPEC.md 11): one pure function from reference, context and entries to a version or an error.

import { fold, InvalidReference, parseReference, pathOf } from "./references.mjs";

export class ResolutionError extends Error {
  constructor(code, details = {}) {
    super(code);
    Object.assign(this, { code, candidates: [], suggestions: [], models: [] }, details);
  }
}

/**
 * @param text the reference
 * @param entries index entries in the order they were published
 * @param defaults default pointers: {model_name, task, subtask, default}
 * @param context {model_name, config, version, type, aliases}; null or undefined: not given
 * @param configs a Configs
 */
export function resolve(text, entries, defaults, context, configs) {
  let reference;
  try {
    reference = parseReference(text);
  } catch (error) {
    if (error instanceof InvalidReference) throw new ResolutionError("InvalidReference");
    throw error;
  }
  const asked = context.version ?? reference.version;
  if (reference.version !== undefined && asked !== reference.version) throw new ResolutionError("InvalidReference");
  const query = {
    reference,
    model: context.model_name ?? undefined,
    type: context.type ?? undefined,
    keep: configs.filter(context.config),
    aliases: new Map(Object.entries(context.aliases ?? {}).map(([key, target]) => [fold(key), fold(target)])),
    pinned: asked !== undefined || reference.digest !== undefined,
    asked,
    entries: latest(entries),
    adapters: adaptersOf(latest(entries)),
    defaults,
  };
  const [adapter, tier, decidedBy] = reference.name === undefined ? byPath(query) : byName(query);
  const entry = versionOf(adapter, asked, reference.digest);
  if (query.keep !== null && !query.keep.keeps(entry)) throw new ResolutionError("NotFound", { suggestions: [nameOf(entry)] });
  return { entry, tier, decidedBy, hub: reference.hub, sha256: reference.digest?.slice("sha256:".length) };
}

const idOf = (entry) => `${entry.task}/${entry.subtask}@${entry.namespace}`;
const nameOf = (entry) => `@${entry.namespace}/${entry.name}`;

/** The entries without those that a later one of the same name and version replaces. */
function latest(entries) {
  const found = new Map();
  for (const entry of entries) found.set(JSON.stringify([fold(entry.namespace), fold(entry.name), entry.version]), entry);
  return [...found.values()];
}

/** Versions grouped to adapters (11.2), with the default version of each. */
function adaptersOf(entries) {
  const groups = new Map();
  for (const entry of entries) {
    const { namespace, name, model_name: model, task, subtask, type } = entry;
    const key = JSON.stringify([fold(namespace), fold(name), model, fold(task), fold(subtask), type]);
    const group = { namespace: fold(namespace), name: fold(name), model, type, task: fold(task), subtask: fold(subtask) };
    if (!groups.has(key)) groups.set(key, { ...group, versions: [] });
    groups.get(key).versions.push(entry);
  }
  return [...groups.values()].map(withDefault);
}

function withDefault(adapter) {
  const live = adapter.versions.filter((entry) => !entry.yanked);
  const wanted = adapter.versions.findLast((entry) => (entry.default_version ?? null) !== null)?.default_version;
  const chosen = live.find((entry) => entry.version === wanted) ?? newest(live.length > 0 ? live : adapter.versions);
  return { ...adapter, live: live.length > 0, default: chosen };
}

function newest(entries) {
  const instant = (entry) => {
    const time = Date.parse(entry.created_at ?? "");
    return Number.isNaN(time) ? -Infinity : time;
  };
  return entries.reduce((best, entry) => (instant(entry) >= instant(best) ? entry : best));
}

function byName({ reference, model, type, keep, pinned, entries, asked }) {
  const [namespace, name] = [fold(reference.namespace), fold(reference.name)];
  const versions = entries.filter((entry) => fold(entry.namespace) === namespace && fold(entry.name) === name);
  if (versions.length === 0) throw new ResolutionError("NotFound");
  const ofModel = versions.filter((entry) => model === undefined || entry.model_name === model);
  if (ofModel.length === 0) {
    throw new ResolutionError("ModelMismatch", { adapter_model: withDefault({ versions }).default.model_name });
  }
  const adapter = withDefault({ versions: ofModel });
  if (!pinned && !adapter.live) throw new ResolutionError("NotFound");
  const entry = ofModel.find((one) => one.version === asked) ?? adapter.default;
  if ((type !== undefined && entry.type !== type) || (keep !== null && !keep.keeps(entry))) {
    throw new ResolutionError("NotFound", { suggestions: [nameOf(entry)] });
  }
  return [adapter, "exact", "unique"];
}

function byPath(query) {
  const { reference, model, keep, adapters, defaults } = query;
  if (model === undefined) throw new ResolutionError("InvalidReference");
  const [found, tier] = firstTier(query, model);
  const nothing = (before) =>
    new ResolutionError("NotFound", {
      suggestions: [...new Set(before.map((adapter) => idOf(adapter.default)))].sort().slice(0, 5),
      models: [...new Set(adapters.map((adapter) => adapter.model))]
        .filter((other) => other !== model && filtered(query, firstTier(query, other)[0]).length > 0)
        .sort(),
    });
  if (found.length === 0) throw nothing([]);
  const published = ofPublisher(query, found);
  if (published.length === 0) throw nothing(found);
  const left = kept(keep, published);
  if (left.length === 0) throw nothing(published);
  if (left.length === 1) {
    return [left[0], tier, found.length === 1 ? "unique" : published.length === 1 ? "namespace" : "config"];
  }
  const pairs = new Set(left.map(({ task, subtask }) => `${task}/${subtask}`));
  if (pairs.size === 1) {
    const { task, subtask } = left[0];
    const pointer = defaults.find(
      (one) => one.model_name === model && fold(one.task) === task && fold(one.subtask) === subtask,
    );
    const chosen = left.find((adapter) => pointer && fold(pointer.default) === `@${adapter.namespace}/${adapter.name}`);
    if (chosen !== undefined) return [chosen, tier, "default"];
  }
  const candidates = left.map((adapter) => ({ id: idOf(adapter.default), adapter: nameOf(adapter.default) }));
  throw new ResolutionError("Ambiguous", { candidates, reference });
}

/** The adapters of the first tier that gives any, and its name. */
function firstTier({ reference, type, pinned, aliases, adapters }, model) {
  const visible = adapters.filter(
    (adapter) => adapter.model === model && (type === undefined || adapter.type === type) && (pinned || adapter.live),
  );
  for (const [tier, path, prefix] of tiers(reference, aliases)) {
    const found = visible.filter((adapter) => matches(adapter, path, prefix));
    if (found.length > 0) return [found, tier];
  }
  return [[], ""];
}

function* tiers(reference, aliases) {
  const path = fold(pathOf(reference));
  yield ["exact", path, false];
  for (const target of aliasTargets(reference, aliases)) yield ["alias", target, false];
  yield ["prefix", path, true];
}

/** What a folded alias table makes of a path: of the whole, then of its parts. */
export function aliasTargets(reference, aliases) {
  const path = fold(pathOf(reference));
  const targets = aliases.has(path) ? [aliases.get(path)] : [];
  if (reference.task !== undefined) {
    const parts = path.split("/").map((part) => {
      const target = aliases.get(part) ?? part;
      return target.includes("/") ? part : target;
    });
    if (parts.join("/") !== path) targets.push(parts.join("/"));
  }
  return targets;
}

function matches({ task, subtask }, path, prefix) {
  const fits = (key, word) => key === word || (prefix && key.startsWith(`${word}-`));
  const [left, right] = path.split("/");
  return right === undefined ? fits(task, left) || fits(subtask, left) : fits(task, left) && fits(subtask, right);
}

function ofPublisher({ reference }, adapters) {
  if (reference.namespace === undefined) return adapters;
  const namespace = fold(reference.namespace);
  return adapters.filter((adapter) => adapter.namespace === namespace);
}

function filtered(query, adapters) {
  return kept(query.keep, ofPublisher(query, adapters));
}

function kept(keep, adapters) {
  if (keep === null) return adapters;
  const left = adapters.filter((adapter) => keep.keeps(adapter.default));
  const groups = new Set(left.map(({ task, subtask, namespace }) => `${task}/${subtask}@${namespace}`));
  if (keep.name !== undefined && groups.size === 1) {
    const plain = left.filter((adapter) => keep.plain(adapter.default));
    if (plain.length > 0) return plain;
  }
  return left;
}

function versionOf(adapter, asked, digest) {
  const names = adapter.versions.map((entry) => entry.version);
  const one = adapter.versions.find((entry) => entry.version === asked);
  if (asked !== undefined && one === undefined) throw new ResolutionError("VersionNotFound", { candidates: names });
  if (digest === undefined) return one ?? adapter.default;
  const known = (entry) => [
    ...(entry.digest ? [entry.digest] : []),
    ...(entry.files ?? []).filter((file) => file.sha256).map((file) => `sha256:${file.sha256}`),
  ];
  const left = one === undefined ? adapter.versions : [one];
  const pick = (entries) => (entries.includes(adapter.default) ? adapter.default : entries.at(-1));
  const fitting = left.filter((entry) => known(entry).includes(digest));
  if (fitting.length > 0) return pick(fitting);
  const unknown = left.filter((entry) => known(entry).length === 0);
  if (unknown.length > 0) return pick(unknown);
  throw one === undefined
    ? new ResolutionError("VersionNotFound", { candidates: names })
    : new ResolutionError("Integrity");
}
