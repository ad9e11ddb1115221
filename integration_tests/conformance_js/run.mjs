// Runs the conformance vectors; prints one line per group (or JSON with --json) and exits with 1 if any vector fails.
//
//   node run.mjs [--json] [--spec FOLDER] [--without-schemas]
//
// All but the schemas is checked without any package (--without-schemas, where ajv cannot be installed).

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve as absolute } from "node:path";
import { fileURLToPath } from "node:url";
import { bottleneck, fuse, ia3, invertible, lora, sublayer } from "./adapters.mjs";
import { canonical, digestOf, parseStrict, sha256 } from "./canonical.mjs";
import { compose, goesOn } from "./composition.mjs";
import { Configs } from "./configs.mjs";
import { hash, lookups, readLine } from "./indexfiles.mjs";
import { fold, formatReference, parseReference } from "./references.mjs";
import { resolve, ResolutionError } from "./resolution.mjs";
import { readHeader, readSafetensors } from "./safetensors.mjs";
import { attentionWithPrefix, prefixStates, prompt, reft } from "./states.mjs";
import { excess, layerNorm } from "./tensors.mjs";

const flags = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const spec = flags.includes("--spec") ? absolute(flags[flags.indexOf("--spec") + 1]) : join(here, "../../spec");
const json = (path) => JSON.parse(readFileSync(join(spec, path), "utf8"));
const folder = (path) => (existsSync(join(spec, path)) ? readdirSync(join(spec, path)).filter((name) => name.endsWith(".json")) : []);

const groups = new Map();

/** Counts one vector of a group; `problem` is what went wrong, or nothing. */
function count(group, id, problem) {
  const entry = groups.get(group) ?? { passed: 0, failed: [] };
  groups.set(group, entry);
  if (problem) entry.failed.push(`${id}: ${problem}`);
  else entry.passed += 1;
}

const equal = (one, other) => canonical(one) === canonical(other);
const attempt = (f) => {
  try {
    return { value: f() };
  } catch (error) {
    return { error };
  }
};
const shown = (value) => JSON.stringify(value)?.slice(0, 300);

// --- canonical JSON and config ids --------------------------------------------------------------------------------------

const vectors = json("conformance/canonical/canonical.json");
for (const { id, json: text, canonical: expected, sha256: digest } of vectors.valid) {
  const { value, error } = attempt(() => canonical(parseStrict(text)));
  count("canonical JSON", id, error?.message ?? (value !== expected || sha256(value) !== digest ? shown(value) : ""));
}
for (const { id, json: text } of vectors.invalid) {
  const { value } = attempt(() => canonical(parseStrict(text)));
  count("canonical JSON, refused", id, value === undefined ? "" : `accepted as ${value}`);
}

const configs = new Configs(
  json("defaults.json"),
  folder("presets").map((name) => json(`presets/${name}`)),
  json("legacy/architectures.json"),
);
for (const { id, json: text, expanded, config_id: expected } of json("conformance/canonical/config_ids.json").valid) {
  const found = configs.expand(parseStrict(text));
  const same = found !== null && equal(found, expanded) && configs.id(found) === expected;
  count("config ids", id, same ? "" : shown(found));
}

// --- references -----------------------------------------------------------------------------------------------------------

const references = json("conformance/references/references.json");
for (const { id, text, parts, normal } of references.valid) {
  const { value, error } = attempt(() => parseReference(text));
  const good = value && equal(value, parts) && formatReference(value) === normal && equal(parseReference(normal), parts);
  count("references", id, good ? "" : (error?.message ?? shown(value)));
}
for (const { id, text } of references.invalid) {
  const { value } = attempt(() => parseReference(text));
  count("references, refused", id, value === undefined ? "" : shown(value));
}
for (const { id, text, key } of references.folded) count("folded keys", id, fold(text) === key ? "" : fold(text));

// --- resolution -----------------------------------------------------------------------------------------------------------

const catalogue = json("conformance/resolution/catalogue.json");
const sorted = (values) => values.map(canonical).sort().join();
for (const vector of json("conformance/resolution/cases.json").cases) {
  const { value, error } = attempt(() => resolve(vector.ref, catalogue.entries, catalogue.defaults, vector, configs));
  count("resolution", vector.id, judge(vector.expect, value, error));
}

function judge(expect, value, error) {
  if (error !== undefined && !(error instanceof ResolutionError)) return error.stack;
  if (expect.ok) {
    if (error) return error.code;
    const { entry, tier, decidedBy, hub, sha256: pinned } = value;
    const found = {
      id: `${entry.task}/${entry.subtask}@${entry.namespace}`, namespace: entry.namespace, adapter: entry.name,
      version: entry.version, architecture: entry.using ?? null, tier, decided_by: decidedBy,
      ...(hub === undefined ? {} : { hub }), ...(pinned === undefined ? {} : { sha256: pinned }),
    };
    return equal(found, expect.ok) ? "" : shown(found);
  }
  if (error === undefined) return `resolved to ${value.entry.name}`;
  if (error.code !== expect.error) return error.code;
  if (sorted(error.candidates) !== sorted(expect.candidates)) return shown(error.candidates);
  if (expect.models && sorted(error.models) !== sorted(expect.models)) return shown(error.models);
  if ((expect.must_suggest ?? []).some((one) => !error.suggestions.includes(one))) return shown(error.suggestions);
  return expect.adapter_model === error.adapter_model ? "" : error.adapter_model;
}

// --- index ----------------------------------------------------------------------------------------------------------------

const lines = json("conformance/index/lines.json");
for (const { id, line, members } of lines.valid) {
  const { value, error } = attempt(() => readLine(line));
  const wrong = value && Object.keys(members).filter((name) => !equal(value[name] ?? null, members[name]));
  count("index lines", id, error?.message ?? wrong.join());
}
for (const { id, line } of lines.invalid) count("index lines, refused", id, attempt(() => readLine(line)).error ? "" : "accepted");
for (const { id, line } of lines.skipped) count("index lines, passed over", id, readLine(line) === null ? "" : "read");
const index = json("conformance/index/files.json");
for (const { parts, hash: expected } of index.hashes) count("index paths", parts.join(), hash(...parts) === expected ? "" : hash(...parts));
for (const name of ["files", "split"]) {
  const listed = json(`conformance/index/${name}.json`);
  const files = new Map(listed.files.map(({ path, text }) => [path, text]));
  for (const { ref, model_name: model, type, aliases, complete, rounds } of listed.lookups) {
    const found = lookups(parseReference(ref), { model, type, aliases, complete, files });
    const plain = (all) => JSON.stringify(all.map((paths) => [...paths].sort()));
    count("index look-ups", `${name}: ${ref}`, plain(found) === plain(rounds) ? "" : shown(found));
  }
}

// --- schemas --------------------------------------------------------------------------------------------------------------

const check = flags.includes("--without-schemas") ? null : (await import("./schemas.mjs")).validator(join(spec, "schemas"));

/** Vectors with `schema: false` break a rule that the schema alone cannot tell. */
function schemaVectors(group, schema, vectors, invalid) {
  for (const vector of check === null ? [] : (vectors ?? [])) {
    const document = vector[["document", "config", "manifest"].find((name) => name in vector)];
    const errors = check(schema, document);
    const expectsErrors = invalid && vector.schema !== false;
    const problem = expectsErrors === errors.length > 0 ? "" : expectsErrors ? "accepted" : errors.slice(0, 3).join("; ");
    count(`schema ${group}`, vector.id, problem);
  }
}

for (const name of folder("presets")) schemaVectors("preset", "preset", [{ id: name, document: json(`presets/${name}`) }]);
for (const name of folder("families")) schemaVectors("family", "family", [{ id: name, document: json(`families/${name}`) }]);
schemaVectors("index-entry", "index-entry", catalogue.entries.map((document) => ({ id: document.name, document })));
for (const name of folder("conformance/schemas")) {
  const { schema, valid, invalid } = json(`conformance/schemas/${name}`);
  schemaVectors(schema, schema, valid, false);
  schemaVectors(`${schema}, refused`, schema, invalid, true);
}
{
  const adapters = json("conformance/configs/adapters.json");
  schemaVectors("adapter-config", "adapter-config", adapters.valid, false);
  schemaVectors("adapter-config, refused", "adapter-config", adapters.invalid, true);
  for (const { id, config, expanded, config_id: expected } of adapters.valid) {
    const found = configs.expand(config);
    const same = found !== null && equal(found, expanded) && configs.id(found) === expected;
    count("configs", id, same ? "" : shown(found));
  }
}
{
  const others = json("conformance/configs/others.json");
  for (const [name, schema] of [["compositions", "composition"], ["fusions", "fusion-config"], ["heads", "head-config"]]) {
    schemaVectors(schema, schema, others[name], false);
    schemaVectors(`${schema}, refused`, schema, others[`invalid_${name}`], true);
  }
}
{
  const manifests = json("conformance/manifests/manifests.json");
  schemaVectors("manifest", "manifest", manifests.valid, false);
  schemaVectors("manifest, refused", "manifest", manifests.invalid, true);
  for (const { id, base64 } of manifests.broken) {
    const decode = () => parseStrict(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Buffer.from(base64, "base64")));
    const { value } = attempt(decode);
    count("manifests that are no JSON object", id, value === undefined || Array.isArray(value) ? "" : "accepted");
  }
  const members = Object.entries(json("schemas/manifest.schema.json").properties);
  const defaults = Object.fromEntries(members.filter(([, one]) => "default" in one).map(([name, one]) => [name, one.default]));
  for (const { id, manifest, digest } of manifests.valid) {
    const found = digestOf({ ...defaults, ...manifest });
    count("manifest digests", id, found === digest ? "" : found);
  }
}

// --- headers --------------------------------------------------------------------------------------------------------------

const headers = json("conformance/headers/headers.json");
for (const { id, base64, metadata, tensors } of headers.valid) {
  const { value, error } = attempt(() => readHeader(Buffer.from(base64, "base64")));
  const good = value && equal(value.metadata, metadata) && equal(value.tensors, tensors);
  count("safetensors headers", id, good ? "" : (error?.message ?? shown(value)));
}
for (const { id, why, base64 } of headers.invalid) {
  const { value } = attempt(() => readHeader(Buffer.from(base64, "base64")));
  count("safetensors headers, refused", id, value === undefined ? "" : `accepted: ${why}`);
}

// --- numerics -------------------------------------------------------------------------------------------------------------

/** Each case of a numerics file with its tensors: f(case, weights, inputs) → tensors by output name. */
function numerics(name, f) {
  const document = json(`conformance/numerics/${name}.json`);
  const tensors = readSafetensors(join(spec, "conformance/numerics", document.tensors));
  const fetch = (names) => Object.fromEntries(Object.entries(names).map(([key, place]) => [key, tensors.get(place)]));
  for (const one of document.cases) {
    const { value, error } = attempt(() => f(one, fetch(one.weights), fetch(one.inputs)));
    const wrong = error
      ? error.stack
      : Object.entries(one.outputs)
          .map(([key, place]) => [key, excess(value[key], tensors.get(place), document.tolerance)])
          .filter(([, difference]) => difference > 0)
          .map(([key, difference]) => `${key} differs by ${difference}`)
          .join();
    count(`numerics ${name}`, one.name, wrong);
  }
}

const under = (prefix, weights) =>
  Object.fromEntries(
    Object.entries(weights).filter(([key]) => key.startsWith(prefix)).map(([key, value]) => [key.slice(prefix.length), value]),
  );
const normOf = (norm, inputs) =>
  norm === null ? (x) => x : (x) => layerNorm(x, inputs["norm.weight"], inputs["norm.bias"], norm.epsilon);

numerics("bottleneck", ({ config, norm }, weights, inputs) => {
  const full = configs.expand(config);
  const own = normOf(norm, inputs);
  const adapted = bottleneck(inputs.h, inputs.r, own, weights, full);
  return { adapted, output: sublayer(adapted, inputs.r, own, full) };
});
numerics("invertible", ({ config }, weights, inputs) => ({ y: invertible(inputs.x, weights, configs.expand(config)) }));
numerics("linear", ({ config, side }, weights, { x, weight, bias }) => {
  const full = configs.expand(config);
  return { y: full.method === "ia3" ? ia3(x, weight, bias, weights, full, side) : lora(x, weight, bias, weights, full) };
});
const fusionDefaults = Object.fromEntries(
  Object.entries(json("schemas/fusion-config.schema.json").properties).map(([key, one]) => [key, one.default]),
);
numerics("fusion", ({ adapter, config, norm }, weights, inputs) => {
  const full = configs.expand(adapter);
  const count = new Set(Object.keys(weights).map((key) => key.split(".")[0]).filter((part) => /^\d+$/.test(part))).size;
  const children = Array.from({ length: count }, (_, number) => [{ weights: under(`${number}.`, weights), config: full }]);
  return fuse(inputs.h, inputs.r, normOf(norm, inputs), children, under("fusion.", weights), { ...fusionDefaults, ...config });
});

numerics("composition", ({ composition, config, fusion, norm }, weights, inputs) => {
  const adapter = (name) => {
    const own = under(`${name}.`, weights);
    return Object.keys(own).length ? { weights: own, config: configs.expand(config[name]) } : undefined;
  };
  const attention = { weights: under("fusion.", weights), config: { ...fusionDefaults, ...fusion } };
  const own = normOf(norm, inputs);
  const found = compose(composition, inputs.h, inputs.r, own, adapter, attention);
  return { adapted: found.value, output: goesOn(found, inputs.r, own) };
});
numerics("states", ({ config, heads, layers }, weights, inputs) => {
  const full = configs.expand(config);
  if (full.method === "reft") return { h: reft(inputs.h, inputs.mask, weights, full) };
  if (full.method === "prompt") return { y: prompt(inputs.x, weights, full) };
  const states = prefixStates(weights, full, heads, layers);
  const contexts = Array.from({ length: layers }, (_, layer) => [`context.${layer}`, attentionWithPrefix(inputs, states, layer, weights)]);
  return { states, ...Object.fromEntries(contexts) };
});

// --- report ---------------------------------------------------------------------------------------------------------------

const failed = [...groups.values()].reduce((sum, group) => sum + group.failed.length, 0);
if (flags.includes("--json")) {
  console.log(JSON.stringify({ failed, groups: Object.fromEntries(groups) }, null, 2));
} else {
  for (const [name, group] of groups) {
    console.log(`${group.failed.length === 0 ? "ok  " : "FAIL"} ${name}: ${group.passed} passed, ${group.failed.length} failed`);
    for (const problem of group.failed.slice(0, 10)) console.log(`       ${problem}`);
  }
  console.log(failed === 0 ? "All vectors pass." : `${failed} vectors fail.`);
}
process.exitCode = failed === 0 ? 0 : 1;
