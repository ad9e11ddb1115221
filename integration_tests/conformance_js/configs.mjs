// Configs: expanding them and their ids (SPEC.md 9.2, 9.3), and whether an index entry has one (11.5).

import { canonical, digestOf } from "./canonical.mjs";

const SPEC_VERSION = "1.0";
const OLD_KEYS = [
  "adapter_residual_before_ln", "ln_after", "ln_before", "mh_adapter", "non_linearity", "original_ln_after",
  "original_ln_before", "output_adapter", "reduction_factor", "residual_before_ln",
];

export class Configs {
  /**
   * @param defaults the object of defaults.json: method → every field
   * @param presets documents of presets/
   * @param architectures further configs by name
   */
  constructor(defaults, presets, architectures = {}) {
    this.defaults = defaults;
    this.named = new Map(Object.entries(architectures));
    for (const preset of presets) {
      for (const name of [preset.name, ...(preset.aliases ?? [])]) this.named.set(name, preset.config);
    }
  }

  /** The config with every field of its method; null if it is none. */
  expand(config) {
    let fields = { ...config };
    if ("using" in fields) {
      const { using, ...overrides } = fields;
      if (typeof using !== "string" || !this.named.has(using)) return null;
      const own = this.complete(this.named.get(using));
      if (own.method === "bottleneck" && (overrides.bottleneck_size ?? null) !== null) overrides.reduction_factor ??= null;
      fields = { ...own, ...overrides };
    } else if (!("method" in fields)) {
      if (OLD_KEYS.some((key) => !(key in fields))) return null;
    }
    return this.complete(fields);
  }

  complete(given) {
    const fields = { method: "bottleneck", ...given };
    if (fields.method === "union") {
      if (!Array.isArray(fields.configs) || Object.keys(fields).length !== 2) return null;
      const configs = fields.configs.map((member) => this.expand(member));
      return configs.includes(null) ? null : { method: "union", configs };
    }
    const defaults = this.defaults[fields.method];
    if (defaults === undefined || Object.keys(fields).some((key) => !(key in defaults))) return null;
    const full = { ...defaults, ...fields };
    if (fields.method === "bottleneck") {
      if (full.bottleneck_size !== null && !("reduction_factor" in fields)) full.reduction_factor = null;
      if (full.inv_adapter !== null) full.inv_adapter_reduction_factor ??= 2;
    }
    for (const key of ["leave_out", "layers"]) {
      if (Array.isArray(full[key])) full[key] = [...new Set(full[key])].sort((one, other) => one - other);
    }
    if (typeof full.non_linearity === "string") full.non_linearity = full.non_linearity.toLowerCase();
    return full;
  }

  /** The config id of an expanded config. */
  id(expanded) {
    return digestOf({ ...expanded, spec_version: SPEC_VERSION });
  }

  /** A function that says whether an entry has the config asked for, with `name` if asked by name. */
  filter(asked) {
    if (asked === null || asked === undefined) return null;
    if (typeof asked === "string") {
      if (asked.startsWith("sha256:") || /^[0-9a-f]{16}$/.test(asked)) {
        return { keeps: (entry) => entry.config_id === asked || entry.legacy_config_id === asked };
      }
      return {
        name: asked,
        keeps: (entry) => entry.using === asked,
        plain: (entry) => this.same({ using: asked }, entry.config),
      };
    }
    return { keeps: (entry) => this.same(asked, entry.config) };
  }

  same(one, other) {
    const [left, right] = [this.expand(one), this.expand(other ?? {})];
    return left !== null && right !== null && canonical(left) === canonical(right);
  }
}
