// As much linear algebra as adapters need, on {shape, data} in row-major order; the last axis holds features.

export const tensor = (shape, data) => ({ shape, data });

/** Elementwise f(a, b, …); a tensor with fewer leading axes is repeated, one with a last axis of 1 is stretched. */
export function zip(f, first, ...others) {
  const last = first.shape.at(-1);
  const pick = (other) => {
    if (typeof other === "number") return () => other;
    if (other.data.length === first.data.length) return (index) => other.data[index];
    if (other.shape.at(-1) === 1 && last !== 1) {
      const rows = other.data.length;
      return (index) => other.data[Math.floor(index / last) % rows];
    }
    return (index) => other.data[index % other.data.length];
  };
  const reads = others.map(pick);
  return tensor(first.shape, first.data.map((value, index) => f(value, ...reads.map((read) => read(index)))));
}

export const add = (one, other) => zip((a, b) => a + b, one, other);
export const subtract = (one, other) => zip((a, b) => a - b, one, other);
export const times = (one, other) => zip((a, b) => a * b, one, other);
export const map = (f, one) => zip(f, one);

/** x [..., in] and m [in, out] → [..., out]. */
export function matmul(x, m) {
  const [size, out] = m.shape;
  const rows = x.data.length / size;
  const data = new Float64Array(rows * out);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < size; i++) {
      const value = x.data[row * size + i];
      for (let j = 0; j < out; j++) data[row * out + j] += value * m.data[i * out + j];
    }
  }
  return tensor([...x.shape.slice(0, -1), out], data);
}

/** [a, b] → [b, a]. */
export function transpose({ shape: [rows, columns], data }) {
  const turned = new Float64Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) turned[j * rows + i] = data[i * columns + j];
  return tensor([columns, rows], turned);
}

/** W x + b with W stored as [out, in]. */
export function linear(x, weight, bias) {
  const y = matmul(x, transpose(weight));
  return bias === undefined ? y : add(y, bias);
}

/** Layer normalisation over the last axis. */
export function layerNorm(x, weight, bias, epsilon = 1e-5) {
  const size = x.shape.at(-1);
  const data = new Float64Array(x.data.length);
  for (let row = 0; row < data.length; row += size) {
    const part = x.data.subarray(row, row + size);
    const mean = part.reduce((sum, value) => sum + value, 0) / size;
    const variance = part.reduce((sum, value) => sum + (value - mean) ** 2, 0) / size;
    for (let i = 0; i < size; i++) {
      data[row + i] = ((part[i] - mean) / Math.sqrt(variance + epsilon)) * weight.data[i] + bias.data[i];
    }
  }
  return tensor(x.shape, data);
}

/** Features [from, to) of the last axis. */
export function features(x, from, to) {
  const size = x.shape.at(-1);
  const rows = x.data.length / size;
  const data = new Float64Array(rows * (to - from));
  for (let row = 0; row < rows; row++) {
    data.set(x.data.subarray(row * size + from, row * size + to), row * (to - from));
  }
  return tensor([...x.shape.slice(0, -1), to - from], data);
}

/** Joins along the last axis. */
export function concatenate(one, other) {
  const [left, right] = [one.shape.at(-1), other.shape.at(-1)];
  const rows = one.data.length / left;
  const data = new Float64Array(rows * (left + right));
  for (let row = 0; row < rows; row++) {
    data.set(one.data.subarray(row * left, (row + 1) * left), row * (left + right));
    data.set(other.data.subarray(row * right, (row + 1) * right), row * (left + right) + left);
  }
  return tensor([...one.shape.slice(0, -1), left + right], data);
}

/** Item i of the first axis. */
export function item(x, index) {
  const size = x.data.length / x.shape[0];
  return tensor(x.shape.slice(1), x.data.subarray(index * size, (index + 1) * size));
}

/** a ⊗ b of two matrices. */
export function kronecker({ shape: [p, q], data: a }, { shape: [r, s], data: b }) {
  const data = new Float64Array(p * q * r * s);
  for (let i = 0; i < p; i++)
    for (let j = 0; j < q; j++)
      for (let k = 0; k < r; k++)
        for (let l = 0; l < s; l++) data[(i * r + k) * q * s + j * s + l] = a[i * q + j] * b[k * s + l];
  return tensor([p * r, q * s], data);
}

/** The largest difference that `tolerance` does not cover, absolutely or relative to the larger magnitude; 0 is equal. */
export function excess(one, other, tolerance) {
  if (one.data.length !== other.data.length) return Infinity;
  let worst = 0;
  one.data.forEach((value, index) => {
    const allowed = tolerance * Math.max(1, Math.abs(value), Math.abs(other.data[index]));
    const difference = Math.abs(value - other.data[index]);
    if (!(difference <= allowed)) worst = Math.max(worst, Number.isNaN(difference) ? Infinity : difference);
  });
  return worst;
}
