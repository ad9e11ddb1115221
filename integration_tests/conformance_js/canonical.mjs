// Strict JSON reading and canonical JSON (SPEC.md 9.1), and the ids made from it (9.3).

import { createHash } from "node:crypto";

/** The sha256 of UTF-8 text or bytes, as 64 hex digits. */
export function sha256(data) {
  return createHash("sha256").update(data).digest("hex");
}

/**
 * Reads JSON text; refuses what JSON.parse lets pass: repeated names, numbers no double holds, lone surrogates.
 * With `counts`, whole numbers from 0 on are BigInts and other numbers are left as text.
 */
export function parseStrict(text, { counts = false } = {}) {
  const reader = new Reader(text, counts);
  const value = reader.value(0);
  reader.space();
  if (reader.at < text.length) reader.fail("text behind the value");
  return value;
}

class Reader {
  constructor(text, counts) {
    this.text = text;
    this.counts = counts;
    this.at = 0;
  }

  fail(why) {
    throw new SyntaxError(`${why} at ${this.at}`);
  }

  space() {
    while (" \t\r\n".includes(this.text[this.at] ?? "x")) this.at++;
  }

  expect(letter) {
    this.space();
    if (this.text[this.at] !== letter) this.fail(`no ${letter}`);
    this.at++;
  }

  value(depth) {
    if (depth > 100) this.fail("too deep");
    this.space();
    const letter = this.text[this.at];
    if (letter === "{") return this.object(depth);
    if (letter === "[") return this.array(depth);
    if (letter === '"') return this.string();
    for (const [word, value] of [["null", null], ["true", true], ["false", false]]) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  object(depth) {
    const object = Object.create(null);
    this.expect("{");
    this.space();
    if (this.text[this.at] === "}") {
      this.at++;
      return object;
    }
    for (;;) {
      this.space();
      const name = this.string();
      if (name in object) this.fail(`the name ${JSON.stringify(name)} comes twice`);
      this.expect(":");
      object[name] = this.value(depth + 1);
      this.space();
      if (this.text[this.at] === "}") break;
      this.expect(",");
    }
    this.at++;
    return object;
  }

  array(depth) {
    const array = [];
    this.expect("[");
    this.space();
    if (this.text[this.at] === "]") {
      this.at++;
      return array;
    }
    for (;;) {
      array.push(this.value(depth + 1));
      this.space();
      if (this.text[this.at] === "]") break;
      this.expect(",");
    }
    this.at++;
    return array;
  }

  string() {
    const token = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
    token.lastIndex = this.at;
    const found = token.exec(this.text);
    if (found === null) this.fail("no string");
    this.at = token.lastIndex;
    const value = JSON.parse(found[0]);
    if (!value.isWellFormed()) this.fail("a lone surrogate");
    return value;
  }

  number() {
    const token = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
    token.lastIndex = this.at;
    const found = token.exec(this.text);
    if (found === null) this.fail("no value");
    this.at = token.lastIndex;
    if (this.counts) return /^[0-9]{1,20}$/.test(found[0]) ? BigInt(found[0]) : found[0];
    const value = Number(found[0]);
    if (!Number.isFinite(value)) this.fail("a number beyond the range of doubles");
    const whole = found[1] === undefined && found[2] === undefined;
    // A whole number has to be the double it is read as, or the shortest text of that double.
    if (whole && BigInt(found[0]) !== BigInt(value) && JSON.stringify(value) !== found[0]) this.fail("an integer no double holds");
    return value;
  }
}

/** RFC 8785 text of a value of null, booleans, numbers, strings, arrays and objects. */
export function canonical(value) {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new RangeError(`${value} is no JSON number`);
    return JSON.stringify(value === 0 ? 0 : value);
  }
  if (typeof value === "string") {
    if (!value.isWellFormed()) throw new RangeError("a lone surrogate");
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const names = Object.keys(value).sort(); // by UTF-16 code units
  return `{${names.map((name) => `${canonical(name)}:${canonical(value[name])}`).join(",")}}`;
}

/** `sha256:` and the digest of the canonical form. */
export function digestOf(value) {
  return `sha256:${sha256(canonical(value))}`;
}
