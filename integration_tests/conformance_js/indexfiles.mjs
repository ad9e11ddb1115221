// Index lines and files (SPEC.md 14): reading lines, the hashes of paths, and which files a reference needs.

import { sha256 } from "./canonical.mjs";
import { fold, pathOf } from "./references.mjs";
import { aliasTargets } from "./resolution.mjs";

const REQUIRED = ["namespace", "name", "version", "model_name", "task", "subtask", "type", "method"];
const KINDS = {
  text: ["digest", "using", "config_id", "legacy_config_id", "default_version", "license", "language", "created_at",
    "yanked_reason", "status", ...REQUIRED],
  whole: ["hidden_size", "size"],
  truth: ["yanked"],
  object: ["config"],
  list: ["files"],
};
const FITS = {
  text: (value) => typeof value === "string",
  whole: (value) => Number.isInteger(value),
  truth: (value) => typeof value === "boolean",
  object: (value) => typeof value === "object" && !Array.isArray(value),
  list: (value) => Array.isArray(value) && value.every((item) => FITS.object(item)),
};

/** The entry or default pointer of a line; null for a line to pass over. Throws for a broken one. */
export function readLine(line) {
  if (line.trim() === "") return null;
  const document = JSON.parse(line);
  if (document === null || typeof document !== "object" || Array.isArray(document)) throw new TypeError("no object");
  if ((document.v ?? 1) > 1) return null;
  if (document.default !== undefined) return document;
  for (const name of REQUIRED) if ((document[name] ?? null) === null) throw new TypeError(`no ${name}`);
  for (const [kind, names] of Object.entries(KINDS)) {
    for (const name of names) {
      const value = document[name] ?? null;
      if (value !== null && !FITS[kind](value)) throw new TypeError(`${name} is not ${kind}`);
    }
  }
  if (!["available", "unavailable"].includes(document.status ?? "available")) throw new TypeError("status");
  for (const name of ["digest", "config_id"]) {
    if (!/^sha256:[0-9a-f]{64}$/.test(document[name] ?? `sha256:${"0".repeat(64)}`)) throw new TypeError(`${name} is no digest`);
  }
  return { yanked: false, status: "available", files: [], config: {}, ...document };
}

/** The first four hex digits of the sha256 of the folded texts. */
export function hash(...parts) {
  return sha256(parts.map(fold).join("\n")).slice(0, 4);
}

/**
 * The files a reference (without a config) needs, round by round, out of a Map from path to text. `aliases`: a table instead of
 * the hub's; `complete`: to list every candidate of an ambiguity.
 */
export function lookups(reference, { model, type, aliases, files, complete }) {
  if (reference.name !== undefined) {
    const namespace = fold(reference.namespace);
    return [[`/index/ns/${namespace.slice(0, 2)}/${namespace}/${fold(reference.name)}.jsonl`]];
  }
  const rounds = [];
  const opened = new Map();
  const read = (paths) => {
    const missing = paths.filter((path) => !opened.has(path));
    if (missing.length > 0) rounds.push(missing);
    for (const path of missing) {
      opened.set(path, (files.get(path) ?? "").split("\n").filter((line) => line !== "").map((line) => JSON.parse(line)));
    }
    return paths.map((path) => opened.get(path));
  };
  const pinned = reference.version !== undefined || reference.digest !== undefined;
  const namespace = reference.namespace === undefined ? null : fold(reference.namespace);
  const path = fold(pathOf(reference));
  const bucketOf = (pair) => `/index/k/${hash(model, ...pair.split("/"))}.jsonl`;
  const page = (file) => file.replace(/\.jsonl$/, `/${namespace}.jsonl`);
  const fitsType = (kind) => type === null || kind === type;
  const isOf = (line, pair) => line.model_name === model && `${fold(line.task)}/${fold(line.subtask)}` === pair;
  const versions = (lines, pair) => lines.filter((line) => line.version !== undefined && isOf(line, pair));
  const counts = (lines, pair) => lines.find((line) => line.counts !== undefined && isOf(line, pair))?.counts;
  const visible = (line) => fitsType(line.type) && (pinned || !line.yanked);
  /** How many adapters of a pair count: told by the file, or those in it. */
  const count = (lines, pair) => {
    const told = counts(lines, pair);
    if (told === undefined) {
      return new Set(versions(lines, pair).filter(visible).map((line) => `${fold(line.namespace)}/${fold(line.name)}`)).size;
    }
    return Object.entries(told).reduce((sum, [kind, [live, all]]) => sum + (fitsType(kind) ? (pinned ? all : live) : 0), 0);
  };

  const place = reference.task === undefined ? `/index/w/${hash(model, path)}.jsonl` : bucketOf(path);
  let word;
  const lines = [];
  if (reference.task !== undefined) {
    const [head] = read([place]);
    if (count(head, path) > 0) return decide([path]);
    word = head.find((line) => line.model_name === model && line.word === path);
    if (word !== undefined) lines.push(word);
  }
  const own = aliases === null ? null : new Map(Object.entries(aliases).map(([key, target]) => [fold(key), fold(target)]));
  const targets = own === null ? [] : aliasTargets(reference, own);
  const places = reference.task === undefined ? [place] : [];
  for (const target of targets) places.push(`/index/w/${hash(model, target.split("/").at(-1))}.jsonl`);
  for (const found of read([...new Set(places)])) lines.push(...found.filter((line) => line.model_name === model));
  if (reference.task === undefined) word = lines.find((line) => line.word === path && line.model_name === model);

  const pairs = new Set();
  for (const line of lines) {
    for (const [task, subtask, kind] of [...line.pairs, ...(pinned ? (line.yanked ?? []) : [])]) {
      if (fitsType(kind)) pairs.add(`${fold(task)}/${fold(subtask)}`);
    }
  }
  const fits = (key, wanted, prefix) => key === wanted || (prefix && key.startsWith(`${wanted}-`));
  const matching = (wanted, prefix) => {
    const [left, right] = wanted.split("/");
    return [...pairs].filter((pair) => {
      const [task, subtask] = pair.split("/");
      return right === undefined
        ? fits(task, left, prefix) || fits(subtask, left, prefix)
        : fits(task, left, prefix) && fits(subtask, right, prefix);
    });
  };
  const tiers = [[path, false], ...(own === null ? (word?.aliases ?? []) : targets).map((target) => [target, false]), [path, true]];
  const keys = tiers.map(([wanted, prefix]) => matching(wanted, prefix)).find((found) => found.length > 0) ?? [];
  if (keys.length === 0) return rounds;
  if (namespace !== null && word?.split === true && own === null && !complete) {
    const [found] = read([page(place)]);
    const mine = (line) => fold(line.namespace) === namespace && visible(line);
    if (keys.some((pair) => versions(found, pair).some(mine))) return rounds;
  }
  return decide(keys);

  /** Goes on from the pairs of the first tier that gives any. */
  function decide(found) {
    if (!complete && found.length > 1 && namespace === null) return rounds; // ambiguous, whatever they hold
    const heads = new Map(found.map((pair) => [pair, bucketOf(pair)]));
    read([...new Set(heads.values())]);
    const split = found.filter((pair) => counts(opened.get(heads.get(pair)), pair) !== undefined);
    if (split.length === 0) return rounds;
    if (complete) {
      read([...new Set(split.map((pair) => heads.get(pair).replace("/k/", "/a/")))]);
    } else if (namespace !== null) {
      read([...new Set(split.map((pair) => page(heads.get(pair))))]);
    } else if (!settled(opened.get(heads.get(found[0])), found[0])) {
      read([heads.get(found[0]).replace("/k/", "/a/")]);
    }
    return rounds;
  }

  /** Whether the part of a pair's adapters that its file shows tells already that several fit, or which is the default. */
  function settled(head, pair) {
    const names = new Set(versions(head, pair).filter(visible).map((line) => `@${fold(line.namespace)}/${fold(line.name)}`));
    const pointer = head.find((line) => line.default !== undefined && isOf(line, pair));
    return names.size > 1 && (pointer === undefined || names.has(fold(pointer.default)) || versions(head, pair)
      .some((line) => `@${fold(line.namespace)}/${fold(line.name)}` === fold(pointer.default)));
  }
}
