// Prompt tuning and ReFT (SPEC.md 3).

import { ACTIVATIONS } from "./adapters.mjs";
import { joined, slice } from "./composition.mjs";
import { tensor } from "./tensors.mjs";

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
