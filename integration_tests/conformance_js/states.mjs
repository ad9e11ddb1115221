// Prefix tuning, prompt tuning and ReFT (SPEC.md 3).

import { ACTIVATIONS } from "./adapters.mjs";
import { joined, slice } from "./composition.mjs";
import { linear, map, tensor } from "./tensors.mjs";

/** [B, T, d] → [B, P + T, d]. */
export function prompt(x, w, config) {
  const [rows, tokens, size] = x.shape;
  const length = w.tokens.shape[0];
  const repeated = joined(Array.from({ length: rows }, () => tensor([1, length, size], w.tokens.data)), 0);
  if (config.combine === "prefix") return joined([repeated, x], 1);
  return joined([slice(x, 1, 0, 1), repeated, slice(x, 1, 1, tokens)], 1);
}

/** h + Rᵀ(act(W h + b) − R h) at the first tokens of each row, and at the last of the others. */
export function reft(h, mask, w, config) {
  const [rows, tokens, size] = h.shape;
  const data = Float64Array.from(h.data);
  const act = ACTIVATIONS[config.non_linearity ?? "linear"];
  for (let row = 0; row < rows; row++) {
    const seen = Array.from({ length: tokens }, (_, token) => token).filter((token) => mask.data[row * tokens + token] !== 0);
    const { prefix_positions: first, suffix_positions: last } = config;
    const units = [["prefix", seen.slice(0, first)], ["suffix", seen.slice(Math.max(first, seen.length - last))]];
    for (const [unit, positions] of units) {
      const own = config.tied_weights ? "prefix" : unit;
      for (const token of positions) {
        const state = data.subarray((row * tokens + token) * size, (row * tokens + token + 1) * size);
        const { data: r, shape: [rank] } = w[`${own}.projection`];
        const [weight, bias] = [w[`${own}.source.weight`].data, w[`${own}.source.bias`].data];
        const change = Array.from({ length: rank }, (_, k) => {
          let [source, projected] = [bias[k], 0];
          for (let i = 0; i < size; i++) {
            source += weight[k * size + i] * state[i];
            projected += r[k * size + i] * state[i];
          }
          return act(source) - (config.subtract_projection ? projected : 0);
        });
        for (let i = 0; i < size; i++) for (let k = 0; k < rank; k++) state[i] += r[k * size + i] * change[k];
      }
    }
  }
  return tensor(h.shape, data);
}

/** The trained keys and values, [2 L, heads, P, size]; layer i has 2 i and 2 i + 1. */
export function prefixStates(w, config, heads, layers) {
  const values = config.flat
    ? w.values
    : linear(
        map(ACTIVATIONS[config.non_linearity], linear(w.tokens, w["down.weight"], w["down.bias"])),
        w["up.weight"],
        w["up.bias"],
      );
  const [length, all] = values.shape;
  const size = all / (2 * layers * heads);
  const data = new Float64Array(values.data.length);
  for (let position = 0; position < length; position++) {
    for (let state = 0; state < 2 * layers; state++) {
      for (let head = 0; head < heads; head++) {
        const from = position * all + (state * heads + head) * size;
        data.set(values.data.subarray(from, from + size), ((state * heads + head) * length + position) * size);
      }
    }
  }
  return tensor([2 * layers, heads, length, size], data);
}

/**
 * Attention of layer i over prefix and text: q, k, v [B, heads, T, size], mask [B, T]. With a gate, x [B, T, d] decides
 * for each row how much the prefix counts: mean over tokens of σ(W x + b), one number for keys and values or one each.
 */
export function attentionWithPrefix({ q, k, v, mask, x }, states, layer, w) {
  const [rows, heads, tokens, size] = q.shape;
  const length = states.shape[2];
  const at = (x, first, second, third) => {
    const from = ((first * x.shape[1] + second) * x.shape[2] + third) * size;
    return x.data.subarray(from, from + size);
  };
  const open = w["gate.weight"] && map((one) => 1 / (1 + Math.exp(-one)), linear(x, w["gate.weight"], w["gate.bias"]));
  const gate = (row, which) => {
    if (!open) return 1;
    const count = open.shape[2];
    const column = Math.min(which, count - 1);
    let sum = 0;
    for (let token = 0; token < open.shape[1]; token++) sum += open.data[(row * open.shape[1] + token) * count + column];
    return sum / open.shape[1];
  };
  const data = new Float64Array(q.data.length);
  for (let row = 0; row < rows; row++) {
    const [gateK, gateV] = [gate(row, 0), gate(row, 1)];
    const scaled = (state, head, p, factor) => at(states, state, head, p).map((one) => one * factor);
    for (let head = 0; head < heads; head++) {
      const seen = Array.from({ length: tokens }, (_, token) => token).filter((token) => mask.data[row * tokens + token]);
      const prefix = Array.from({ length }, (_, position) => position);
      const keys = [...prefix.map((p) => scaled(2 * layer, head, p, gateK)), ...seen.map((t) => at(k, row, head, t))];
      const values = [...prefix.map((p) => scaled(2 * layer + 1, head, p, gateV)), ...seen.map((t) => at(v, row, head, t))];
      for (let token = 0; token < tokens; token++) {
        const query = at(q, row, head, token);
        const scores = keys.map((key) => key.reduce((sum, value, i) => sum + value * query[i], 0) / Math.sqrt(size));
        const highest = Math.max(...scores);
        const weights = scores.map((score) => Math.exp(score - highest));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        const out = ((row * heads + head) * tokens + token) * size;
        values.forEach((value, index) => value.forEach((one, i) => (data[out + i] += (weights[index] / total) * one)));
      }
    }
  }
  return tensor(q.shape, data);
}
