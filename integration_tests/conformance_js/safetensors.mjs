// Safetensors files (SPEC.md 8 and 16): a strict header reader, and the values of plain tensors.

import { readFileSync } from "node:fs";
import { parseStrict } from "./canonical.mjs";

const BITS = {
  BOOL: 8, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8, F4: 4, F6_E2M3: 6,
  F6_E3M2: 6, I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, I64: 64, U64: 64, F64: 64, C64: 64,
};
const MAX = { header: 8 * 1024 * 1024, tensors: 10_000, name: 1_024, rank: 64, metadata: 65_536, bytes: 2n ** 63n - 1n };
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u;

/** {metadata, tensors: name → {dtype, shape, data_offsets}, start} of a whole file; throws unless every byte of the data
 *  belongs to exactly one tensor. */
export function readHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 8) throw new RangeError("no header length");
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX.header) || length > BigInt(bytes.length - 8)) throw new RangeError("header too long");
  const start = 8 + Number(length);
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(8, start));
  if (!text.startsWith("{") || !text.replace(/ +$/, "").endsWith("}")) throw new SyntaxError("no object");
  const { __metadata__: metadata = {}, ...entries } = parseStrict(text, { counts: true });
  if (metadata === null || typeof metadata !== "object" || Array.isArray(metadata)) throw new TypeError("metadata");
  const size = (part) => new TextEncoder().encode(part).length;
  const total = Object.entries(metadata).reduce((sum, [key, value]) => {
    if (typeof value !== "string") throw new TypeError("metadata");
    return sum + size(key) + size(value);
  }, 0);
  if (total > MAX.metadata || Object.keys(entries).length > MAX.tensors) throw new RangeError("too much");
  for (const [name, entry] of Object.entries(entries)) checkTensor(name, entry);
  let reached = 0n;
  const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
  const ranges = Object.values(entries).map((entry) => entry.data_offsets);
  for (const [from, to] of ranges.sort((one, other) => compare(one[0], other[0]) || compare(one[1], other[1]))) {
    if (from !== reached) throw new RangeError("gap or overlap");
    reached = to;
  }
  if (reached !== BigInt(bytes.length - start)) throw new RangeError("the tensors are not the data");
  const plain = ({ dtype, shape, data_offsets: offsets }) => ({
    dtype, shape: shape.map(Number), data_offsets: offsets.map(Number),
  });
  const tensors = Object.fromEntries(Object.entries(entries).map(([name, entry]) => [name, plain(entry)]));
  return { metadata: { ...metadata }, tensors, start };
}

function checkTensor(name, entry) {
  const isCount = (value) => typeof value === "bigint" && value < 2n ** 64n;
  const fits = (values, least, most) =>
    Array.isArray(values) && values.length >= least && values.length <= most && values.every(isCount);
  if (name === "" || [...name].length > MAX.name || HIDDEN.test(name)) throw new RangeError("name");
  if (entry === null || typeof entry !== "object" || Array.isArray(entry)) throw new TypeError(name);
  if (Object.keys(entry).sort().join() !== "data_offsets,dtype,shape") throw new TypeError(name);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!Object.hasOwn(BITS, dtype)) throw new TypeError(`${name}: dtype`);
  if (!fits(shape, 0, MAX.rank) || !fits(offsets, 2, 2) || offsets[0] > offsets[1]) throw new TypeError(name);
  let bits = BigInt(BITS[dtype]);
  for (const dimension of shape) {
    bits *= dimension || 1n;
    if (bits > 8n * MAX.bytes) throw new RangeError(`${name}: overflow`);
  }
  if (shape.includes(0n)) bits = 0n;
  if (bits !== 8n * (offsets[1] - offsets[0])) throw new RangeError(`${name}: ${dtype} ${shape}`);
}

/** Map from name to {shape, data: Float64Array}, of tensors of F32, F64, I64, U8 and BOOL. */
export function readSafetensors(path) {
  const bytes = readFileSync(path);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { tensors, start } = readHeader(bytes);
  const read = {
    F32: (at) => view.getFloat32(at, true),
    F64: (at) => view.getFloat64(at, true),
    I64: (at) => Number(view.getBigInt64(at, true)),
    U8: (at) => view.getUint8(at),
    BOOL: (at) => view.getUint8(at),
  };
  const values = ({ dtype, shape, data_offsets: [from] }) => {
    const count = shape.reduce((product, dimension) => product * dimension, 1);
    return Float64Array.from({ length: count }, (_, index) => read[dtype](start + from + (index * BITS[dtype]) / 8));
  };
  return new Map(Object.entries(tensors).map(([name, entry]) => [name, { shape: entry.shape, data: values(entry) }]));
}
