// Compositions of adapters at one sublayer (SPEC.md 4), on h and r of [B, T, d].

import { bottleneck, fuse } from "./adapters.mjs";
import { add, tensor, times } from "./tensors.mjs";

/** {value: h', follows} of a composition: a name, or {type, children, …}. `follows` tells for each token whether the model's
 *  norm(h' + r) comes next; it is undefined where no adapter has a module. `adapter(name)` gives {weights, config}, or undefined
 *  where it has none; `fusion` is {weights, config}. */
export function compose(block, h, r, norm, adapter, fusion) {
  const everywhere = (config, [rows, tokens]) => tensor([rows, tokens, 1], new Float64Array(rows * tokens).fill(+config.original_ln_after));
  if (typeof block === "string") {
    const found = adapter(block);
    if (found === undefined) return { value: h };
    const { weights, config } = found;
    return { value: bottleneck(h, r, norm, weights, config), follows: everywhere(config, h.shape) };
  }
  const child = (one, ownH, ownR) => compose(one, ownH, ownR, norm, adapter, fusion);
  const { type, children } = block;
  if (type === "Stack") {
    return children.reduce(({ value, follows }, one) => {
      const next = child(one, value, r);
      return { value: next.value, follows: next.follows ?? follows };
    }, { value: h });
  }
  if (type === "Average") {
    const total = block.normalize_weights === false ? 1 : block.weights.reduce((sum, weight) => sum + weight, 0);
    const parts = children.map((one) => child(one, h, r));
    const value = parts.map((part, index) => times(part.value, block.weights[index] / total)).reduce(add);
    return { value, follows: parts.findLast((part) => part.follows)?.follows };
  }
  if (type === "Fuse") {
    const stacks = children.map((one) => (typeof one === "string" ? [one] : one.children).map(adapter).filter(Boolean));
    const there = stacks.filter((stack) => stack.length > 0);
    const { adapted } = fuse(h, r, norm, there, fusion.weights, fusion.config);
    return { value: adapted, follows: everywhere(there.at(-1).at(-1).config, h.shape) };
  }
  if (type === "Parallel") return together(children.map((one) => child(one, h, r)), 0);
  const [axis, sizes] = type === "BatchSplit" ? [0, block.batch_sizes] : [1, block.splits];
  let from = 0;
  const parts = children.map((one, index) => {
    const to = from + sizes[index];
    const part = child(one, slice(h, axis, from, to), slice(r, axis, from, to));
    from = to;
    return part;
  });
  return together(parts, axis);
}

/** What the model goes on with: norm(h' + r), or h' where that does not follow. */
export function goesOn({ value, follows }, r, norm) {
  const copies = Array.from({ length: value.shape[0] / r.shape[0] }, () => r);
  const after = norm(add(value, joined(copies, 0)));
  if (follows === undefined) return after;
  const size = value.shape.at(-1);
  return tensor(value.shape, after.data.map((one, at) => (follows.data[Math.floor(at / size)] ? one : value.data[at])));
}

function together(parts, axis) {
  const all = ([rows, tokens]) => tensor([rows, tokens, 1], new Float64Array(rows * tokens).fill(1));
  return {
    value: joined(parts.map((part) => part.value), axis),
    follows: joined(parts.map((part) => part.follows ?? all(part.value.shape)), axis),
  };
}

/** Rows (axis 0) or tokens (axis 1) [from, to). */
export function slice({ shape: [rows, tokens, size], data }, axis, from, to) {
  if (axis === 0) return tensor([to - from, tokens, size], data.slice(from * tokens * size, to * tokens * size));
  const part = new Float64Array(rows * (to - from) * size);
  for (let row = 0; row < rows; row++) {
    part.set(data.subarray((row * tokens + from) * size, (row * tokens + to) * size), row * (to - from) * size);
  }
  return tensor([rows, to - from, size], part);
}

/** Several [B, T, d] joined along rows (axis 0) or tokens (axis 1). */
export function joined(parts, axis) {
  const [rows, , size] = parts[0].shape;
  if (axis === 0) {
    const data = Float64Array.from(parts.flatMap((part) => [...part.data]));
    return tensor([parts.reduce((sum, part) => sum + part.shape[0], 0), ...parts[0].shape.slice(1)], data);
  }
  const tokens = parts.reduce((sum, part) => sum + part.shape[1], 0);
  const data = new Float64Array(rows * tokens * size);
  for (let row = 0, at = 0; row < rows; row++) {
    for (const part of parts) {
      const length = part.shape[1] * size;
      data.set(part.data.subarray(row * length, (row + 1) * length), at);
      at += length;
    }
  }
  return tensor([rows, tokens, size], data);
}
