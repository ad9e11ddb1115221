// Compositions of adapters at one sublayer (SPEC.md 4), on h and r of [B, T, d].

import { bottleneck } from "./adapters.mjs";
import { add, tensor, times } from "./tensors.mjs";

/** h' of a composition: a name, or {type, children, …}; `adapter(name)` gives {weights, config}. */
export function compose(block, h, r, norm, adapter) {
  if (typeof block === "string") {
    const { weights, config } = adapter(block);
    return bottleneck(h, r, norm, weights, config);
  }
  const child = (one, ownH, ownR) => compose(one, ownH, ownR, norm, adapter);
  const { type, children } = block;
  if (type === "Stack") return children.reduce((value, one) => child(one, value, r), h);
  if (type === "Average") {
    const total = block.weights.reduce((sum, weight) => sum + weight, 0);
    return children.map((one, index) => times(child(one, h, r), block.weights[index] / total)).reduce(add);
  }
  if (type === "Parallel") return joined(children.map((one) => child(one, h, r)), 0);
  const [axis, sizes] = type === "BatchSplit" ? [0, block.batch_sizes] : [1, block.splits];
  let from = 0;
  const parts = children.map((one, index) => {
    const to = from + sizes[index];
    const part = child(one, slice(h, axis, from, to), slice(r, axis, from, to));
    from = to;
    return part;
  });
  return joined(parts, axis);
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
