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
  return { yanked: false, status: "available", files: [], config: {}, ...document };
}

/** The first four hex digits of the sha256 of the folded texts. */
export function hash(...parts) {
  return sha256(parts.map(fold).join("\n")).slice(0, 4);
}

/** The files a reference needs, round by round, out of a Map from path to text. */
export function lookups(reference, { model, type, aliases, files }) {
  if (reference.name !== undefined) {
    const namespace = fold(reference.namespace);
    return [[`/index/ns/${namespace.slice(0, 2)}/${namespace}/${fold(reference.name)}.jsonl`]];
  }
  const pinned = reference.version !== undefined || reference.digest !== undefined;
  const rounds = [];
  const read = (path) => (files.get(path) ?? "").split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
  if (reference.task !== undefined) {
    const path = `/index/k/${hash(model, reference.task, reference.subtask)}.jsonl`;
    rounds.push([path]);
    const [task, subtask] = [fold(reference.task), fold(reference.subtask)];
    const here = read(path).filter(
      (entry) =>
        entry.default === undefined && entry.model_name === model && fold(entry.task) === task &&
        fold(entry.subtask) === subtask && (type === null || entry.type === type) && (pinned || !entry.yanked),
    );
    if (here.length > 0) return rounds;
  }
  const table = new Map(Object.entries(aliases ?? {}).map(([key, target]) => [fold(key), fold(target)]));
  const targets = aliasTargets(reference, table);
  const words = [reference.word ?? reference.subtask, ...targets.map((target) => target.split("/").at(-1))];
  rounds.push([...new Set(words.map((word) => `/index/w/${hash(model, word)}.jsonl`))]);
  const pairs = new Map();
  for (const path of rounds.at(-1)) {
    for (const line of read(path)) {
      if (line.model_name !== model) continue;
      for (const [task, subtask, kind] of [...line.pairs, ...(pinned ? (line.yanked ?? []) : [])]) {
        if (type === null || kind === type) pairs.set(`${fold(task)}/${fold(subtask)}`, [fold(task), fold(subtask)]);
      }
    }
  }
  const fits = (key, word, prefix) => key === word || (prefix && key.startsWith(`${word}-`));
  const path = fold(pathOf(reference));
  for (const [wanted, prefix] of [[path, false], ...targets.map((target) => [target, false]), [path, true]]) {
    const [left, right] = wanted.split("/");
    const found = [...pairs.values()].filter(([task, subtask]) =>
      right === undefined
        ? fits(task, left, prefix) || fits(subtask, left, prefix)
        : fits(task, left, prefix) && fits(subtask, right, prefix),
    );
    if (found.length > 0) {
      rounds.push([...new Set(found.map(([task, subtask]) => `/index/k/${hash(model, task, subtask)}.jsonl`))]);
      break;
    }
  }
  return rounds;
}
