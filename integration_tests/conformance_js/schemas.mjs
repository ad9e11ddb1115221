// Validates documents by the JSON Schemas (2020-12) of the specification, with ajv.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

/** A function (schema name, document) → the errors found, empty if it is valid. */
export function validator(folder) {
  const ajv = new Ajv2020({ allErrors: true, strict: false });
  addFormats(ajv);
  const ids = new Map();
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".schema.json"))) {
    const schema = JSON.parse(readFileSync(join(folder, file), "utf8"));
    ajv.addSchema(schema);
    ids.set(file.replace(".schema.json", ""), schema.$id);
  }
  const check = (name, document) => {
    const validate = ajv.getSchema(ids.get(name));
    return validate(document) ? [] : validate.errors.map((error) => `${error.instancePath} ${error.message}`);
  };
  check.names = [...ids.keys()];
  return check;
}
