// Reads a safetensors file with F32, F64 and BOOL tensors, strictly: every byte belongs to exactly one tensor.

import { readFileSync } from "node:fs";
import { parseStrict } from "./canonical.mjs";

const SIZES = { F32: 4, F64: 8, I64: 8, BOOL: 1, U8: 1 };
const MAX_HEADER = 8 * 1024 * 1024;

/** Map from name to {shape, data: Float64Array}. */
export function readSafetensors(path) {
  const bytes = readFileSync(path);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER) || length > BigInt(bytes.length - 8)) throw new RangeError("header too long");
  const start = 8 + Number(length);
  const header = parseStrict(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, start)));
  const tensors = new Map();
  const ranges = [];
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const size = SIZES[dtype];
    const count = shape.reduce((product, dimension) => product * dimension, 1);
    if (size === undefined || to - from !== count * size) throw new RangeError(`${name}: ${dtype} ${shape}`);
    ranges.push([from, to]);
    const data = Float64Array.from({ length: count }, (_, index) => element(view, dtype, start + from + index * size));
    tensors.set(name, { shape, data });
  }
  let end = 0;
  for (const [from, to] of ranges.sort((one, other) => one[0] - other[0] || one[1] - other[1])) {
    if (from !== end) throw new RangeError("gap or overlap");
    end = to;
  }
  if (start + end !== bytes.length) throw new RangeError("bytes behind the tensors");
  return tensors;
}

function element(view, dtype, at) {
  if (dtype === "F32") return view.getFloat32(at, true);
  if (dtype === "F64") return view.getFloat64(at, true);
  if (dtype === "I64") return Number(view.getBigInt64(at, true));
  return view.getUint8(at);
}
