// References: parsing, the normal form and the folded key (SPEC.md 10).

const PART = "[A-Za-z0-9][A-Za-z0-9._+-]*";
const NAMESPACE = `(?!sha256(?![A-Za-z0-9._+-]))${PART}`;
const GRAMMAR = new RegExp(
  `^(?:(?<hub>${PART})::)?` +
    `(?:@(?<owner>${NAMESPACE})/(?<name>${PART})` +
    `|(?:(?<task>${PART})/(?<subtask>${PART})|(?<word>${PART}))(?:@(?<publisher>${NAMESPACE}))?)` +
    `(?::(?<version>${PART}))?(?:@sha256:(?<digest>[0-9a-f]{64}))?$`,
);
const MAX_LENGTH = 512;

export class InvalidReference extends Error {}

/** ASCII lower case; every other character stays. */
export function lower(text) {
  return text.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

/** The key names are compared by. */
export function fold(text) {
  return lower(text).replace(/[_.]/g, "-");
}

/** The parts of a reference; absent ones are not there. */
export function parseReference(text) {
  if (text.length > MAX_LENGTH || !/^[\x21-\x7e]*$/.test(text)) throw new InvalidReference(text.slice(0, 80));
  // Everything but the version is in lower case; the version is found again at its place.
  const found = GRAMMAR.exec(lower(text));
  if (found === null || text.includes("\n")) throw new InvalidReference(text.slice(0, 80));
  const { owner, publisher, version, digest, ...parts } = found.groups;
  const reference = { ...parts, namespace: owner ?? publisher };
  if (version !== undefined) {
    const tail = digest === undefined ? 0 : "@sha256:".length + 64;
    const end = text.length - tail;
    reference.version = text.slice(end - version.length, end);
  }
  if (digest !== undefined) reference.digest = `sha256:${digest}`;
  return Object.fromEntries(Object.entries(reference).filter(([, value]) => value !== undefined));
}

/** `task/subtask` or the word, undefined for @namespace/name. */
export function pathOf(reference) {
  return reference.task === undefined ? reference.word : `${reference.task}/${reference.subtask}`;
}

/** The normal form. */
export function formatReference(reference) {
  const { hub, namespace, name, version, digest } = reference;
  let text = hub === undefined ? "" : `${hub}::`;
  text += name === undefined ? pathOf(reference) : `@${namespace}/${name}`;
  if (name === undefined && namespace !== undefined) text += `@${namespace}`;
  return text + (version === undefined ? "" : `:${version}`) + (digest === undefined ? "" : `@${digest}`);
}
