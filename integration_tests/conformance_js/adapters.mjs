// What adapters compute (SPEC.md 3 and 5): bottlenecks, invertible blocks, fusion, LoRA and IA3.

import {
  add, concatenate, features, item, kronecker, layerNorm, linear, map, matmul, tensor, times, transpose,
} from "./tensors.mjs";

/** Abramowitz and Stegun are not exact enough: the series and the continued fraction of erf. */
function erf(x) {
  const t = Math.abs(x);
  let value;
  if (t < 3) {
    let term = t;
    let sum = t;
    for (let n = 1; n < 80; n++) {
      term *= (-t * t) / n;
      sum += term / (2 * n + 1);
    }
    value = (2 / Math.sqrt(Math.PI)) * sum;
  } else {
    let fraction = 0;
    for (let n = 60; n > 0; n--) fraction = n / 2 / (t + fraction);
    value = 1 - Math.exp(-t * t) / (Math.sqrt(Math.PI) * (t + fraction));
  }
  return Math.sign(x) * value;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const gelu = (x) => (x / 2) * (1 + erf(x / Math.SQRT2));
const geluTanh = (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const leaky = (x) => (x > 0 ? x : 0.01 * x);

export const ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  relu2: (x) => Math.max(x, 0) ** 2,
  relu6: (x) => clip(x, 0, 6),
  leakyrelu: leaky,
  leaky_relu: leaky,
  linear: (x) => x,
  sigmoid,
  tanh: Math.tanh,
  silu: (x) => x * sigmoid(x),
  swish: (x) => x * sigmoid(x),
  mish: (x) => x * Math.tanh(Math.log1p(Math.exp(x))),
  gelu,
  gelu_orig: gelu,
  gelu_python: gelu,
  gelu_10: (x) => clip(gelu(x), -10, 10),
  gelu_new: geluTanh,
  gelu_fast: geluTanh,
  gelu_accurate: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  gelu_python_tanh: geluTanh,
  quick_gelu: (x) => x * sigmoid(1.702 * x),
  laplace: (x) => 0.5 * (1 + erf((x - 0.707107) / (0.282095 * Math.SQRT2))),
};

/** Σ over the first axis of rule ⊗ parts, [in, out]. */
function phmMatrix(w, name, config) {
  const shared = (leaf) => w[`shared.${leaf}`];
  const find = (leaf, isShared, sharedLeaf) => (isShared ? shared(sharedLeaf) : w[`${name}.${leaf}`]);
  const { shared_phm_rule: sharedRule, shared_W_phm: sharedWeight } = config;
  const stackProduct = (left, right) =>
    Array.from({ length: left.shape[0] }, (_, index) => matmul(item(left, index), item(right, index)));
  const stack = (whole) => Array.from({ length: whole.shape[0] }, (_, index) => item(whole, index));
  const rule = config.factorized_phm_rule
    ? stackProduct(find("rule_left", sharedRule, "rule_left"), find("rule_right", sharedRule, "rule_right"))
    : stack(find("rule", sharedRule, "rule"));
  const parts = config.factorized_phm_W
    ? stackProduct(find("left", sharedWeight, `${name}.left`), find("right", sharedWeight, `${name}.right`))
    : stack(find("weight", sharedWeight, `${name}.weight`));
  return rule.map((one, index) => kronecker(one, parts[index])).reduce(add);
}

/** scaling · (W_up act(W_down n(x) + b_down) + b_up). */
export function up(x, w, config) {
  if (config.ln_before) x = layerNorm(x, w["norm_before.weight"], w["norm_before.bias"]);
  const act = ACTIVATIONS[config.non_linearity];
  const layer = (input, name) => {
    if (!config.phm_layer) return linear(input, w[`${name}.weight`], w[`${name}.bias`]);
    const output = matmul(input, phmMatrix(w, name, config));
    return w[`${name}.bias`] === undefined ? output : add(output, w[`${name}.bias`]);
  };
  const result = layer(map(act, layer(x, "down")), "up");
  return times(result, typeof config.scaling === "string" ? w.scaling : config.scaling);
}

/** The mean over tokens of sigmoid(W x + b), for each row: [B, T, d] → [B, T, 1]. */
function gate(x, w) {
  const [rows, tokens] = x.shape;
  const open = map(sigmoid, linear(x, w["gate.weight"], w["gate.bias"]));
  const data = new Float64Array(rows * tokens);
  for (let row = 0; row < rows; row++) {
    const part = open.data.subarray(row * tokens, (row + 1) * tokens);
    data.fill(part.reduce((sum, value) => sum + value, 0) / tokens, row * tokens, (row + 1) * tokens);
  }
  return tensor([rows, tokens, 1], data);
}

/** (x, s): what the adapter reads, and what is added to its output. */
function enter(h, r, norm, config) {
  if (config.is_parallel) return [r, h];
  if (!config.original_ln_before) return [h, h];
  const summed = add(h, r);
  const x = norm(summed);
  if (config.residual_before_ln === "post_add") return [x, summed];
  return [x, config.residual_before_ln ? h : x];
}

/** h' of one bottleneck adapter; `norm` is the model's, the identity where it has none. */
export function bottleneck(h, r, norm, w, config) {
  const [x, s] = enter(h, r, norm, config);
  let z = up(x, w, config);
  if (config.use_gating) z = times(z, gate(x, w));
  const inside = config.adapter_residual_before_ln && !config.is_parallel;
  if (inside) z = add(z, s);
  if (config.ln_after) z = layerNorm(z, w["norm_after.weight"], w["norm_after.bias"]);
  return inside ? z : add(z, s);
}

/** What the model goes on with. */
export function sublayer(adapted, r, norm, config) {
  return config.original_ln_after ? norm(add(adapted, r)) : adapted;
}

/** NICE or GLOW coupling on the embeddings. */
export function invertible(x, w, config) {
  const size = x.shape.at(-1);
  const half = Math.floor(size / 2);
  const act = ACTIVATIONS[config.non_linearity];
  const network = (input, name) =>
    linear(
      map(act, linear(input, w[`${name}.down.weight`], w[`${name}.down.bias`])),
      w[`${name}.up.weight`],
      w[`${name}.up.bias`],
    );
  let [one, two] = [features(x, 0, half), features(x, half, size)];
  if (config.inv_adapter === "nice") {
    one = add(one, network(two, "f"));
    return concatenate(one, add(two, network(one, "g")));
  }
  const affine = (value, both) => {
    const width = value.shape.at(-1);
    const scale = map((s) => Math.exp(0.636 * 5 * Math.atan(s / 5)), features(both, 0, width));
    return add(times(value, scale), features(both, width, 2 * width));
  };
  one = affine(one, network(two, "s2"));
  return concatenate(one, affine(two, network(one, "s1")));
}

/** {adapted, attention} of attention over the outputs of several children, each a list of adapters one after the other; the
 *  last adapter of the last child says what is read and added, with a parallel one s = r, and h is added at last. */
export function fuse(h, r, norm, children, fusion, config) {
  const last = children.at(-1).at(-1).config;
  const [x, skip] = enter(h, r, norm, last);
  const s = last.is_parallel ? r : skip;
  const query = config.query_before_ln && !last.is_parallel ? h : x;
  let outputs = children.map((child) => {
    const [before, own] = [child.slice(0, -1), child.at(-1)];
    const given = before.reduce((value, one) => bottleneck(value, r, norm, one.weights, one.config), h);
    return up(before.length ? enter(given, r, norm, own.config)[0] : x, own.weights, own.config);
  });
  if (config.residual_before) outputs = outputs.map((output) => add(output, s));
  const project = (value, name) => (config[name] ? linear(value, fusion[`${name}.weight`], fusion[`${name}.bias`]) : value);
  const q = project(query, "query");
  const keys = outputs.map((output) => project(output, "key"));
  const values = outputs.map((output) => (config.value ? linear(output, fusion["value.weight"]) : output));
  const size = h.shape.at(-1);
  const tokens = h.data.length / size;
  const temperature = fusion.temperature?.data[0] ?? 1;
  const attention = new Float64Array(tokens * children.length);
  const mixed = new Float64Array(h.data.length);
  for (let token = 0; token < tokens; token++) {
    const scores = keys.map((key) => {
      let sum = 0;
      for (let i = 0; i < size; i++) sum += q.data[token * size + i] * key.data[token * size + i];
      return sum / temperature;
    });
    const highest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - highest));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    weights.forEach((weight, index) => {
      attention[token * children.length + index] = weight / total;
      for (let i = 0; i < size; i++) mixed[token * size + i] += (weight / total) * values[index].data[token * size + i];
    });
  }
  const fused = config.residual_before ? tensor(h.shape, mixed) : add(tensor(h.shape, mixed), s);
  return {
    adapted: last.is_parallel ? add(h, fused) : fused,
    attention: tensor([...h.shape.slice(0, -1), children.length], attention),
  };
}

/** LoRA or DoRA at a linear map W [out, in]. */
export function lora(x, weight, bias, w, config) {
  const rank = w.a.shape[0];
  const plain = config.use_gating ? 1 : config.alpha / (config.use_rslora ? Math.sqrt(rank) : rank);
  const delta = matmul(w.b, w.a); // [out, in]
  const change = times(matmul(x, transpose(delta)), config.use_gating ? gate(x, w) : plain);
  let result = add(matmul(x, transpose(weight)), change);
  if (config.use_dora) {
    const merged = add(weight, times(delta, plain));
    const [rows, columns] = merged.shape;
    const lengths = Array.from({ length: rows }, (_, row) => {
      const part = merged.data.subarray(row * columns, (row + 1) * columns);
      return Math.sqrt(part.reduce((sum, value) => sum + value * value, 0));
    });
    result = times(result, tensor([rows], w.magnitude.data.map((value, row) => value / lengths[row])));
  }
  if (bias !== undefined) result = add(result, bias);
  return config.bias ? add(result, w.bias) : result;
}

/** IA3: the output, or the input, of a linear map scaled. */
export function ia3(x, weight, bias, w, config, side) {
  const factor = (value) => times(times(value, w.scale), config.use_gating ? gate(x, w) : config.alpha);
  if (side === "input") return linear(factor(x), weight, bias);
  return factor(linear(x, weight, bias));
}

