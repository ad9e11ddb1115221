// Answers questions, one JSON object a line, so that another implementation can be compared on any input:
//
//   {"canonical": JSON text}                         → {"canonical": text} or {"error": …}
//   {"reference": text}                              → {"parts": …, "normal": text} or {"error": …}
//   {"resolve": text, "entries", "defaults", …}      → {"ok": [adapter, version, tier, decided_by]} or {"error": code, …}

import { readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { canonical, parseStrict } from "./canonical.mjs";
import { Configs } from "./configs.mjs";
import { formatReference, parseReference } from "./references.mjs";
import { resolve, ResolutionError } from "./resolution.mjs";

const given = process.argv.indexOf("--spec");
const spec = given < 0 ? join(dirname(fileURLToPath(import.meta.url)), "../../spec") : process.argv[given + 1];
const json = (path) => JSON.parse(readFileSync(join(spec, path), "utf8"));
const presets = readdirSync(join(spec, "presets")).map((name) => json(`presets/${name}`));
const configs = new Configs(json("defaults.json"), presets, json("legacy/architectures.json"));

function answer(question) {
  try {
    if ("canonical" in question) return { canonical: canonical(parseStrict(question.canonical)) };
    if ("reference" in question) {
      const parts = parseReference(question.reference);
      return { parts, normal: formatReference(parts) };
    }
    const { entry, tier, decidedBy } = resolve(question.resolve, question.entries, question.defaults, question, configs);
    return { ok: [`@${entry.namespace}/${entry.name}`, entry.version, tier, decidedBy] };
  } catch (error) {
    if (!(error instanceof ResolutionError)) return { error: true };
    const candidates = error.candidates.map(canonical).sort();
    return { error: error.code, candidates, models: [...error.models].sort() };
  }
}

for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(answer(JSON.parse(line))));
