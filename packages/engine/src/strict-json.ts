/** Reading JSON from model files, which may come from anywhere: bounded size and depth, no duplicate keys. */
import { badModel } from "./bad-model.js";
import { readWholeFile } from "./file-reader.js";

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject;
export interface JsonObject {
  [key: string]: JsonValue;
}

const maxDepth = 64;

/**
 * Parses JSON of a model file.
 * @throws E_BAD_MODEL for text that is no JSON, nests deeper than 64 or repeats a key within one object.
 */
function parseStrictJson(text: string, file: string): JsonValue {
  checkNesting(text, file);
  try {
    return JSON.parse(text) as JsonValue;
  } catch (cause) {
    throw badModel(file, `is not valid JSON: ${(cause as Error).message}`, { cause });
  }
}

/** As {@link parseStrictJson}, and the value must be an object. */
export function parseJsonObject(text: string, file: string): JsonObject {
  const value = parseStrictJson(text, file);
  if (!isJsonObject(value)) throw badModel(file, "must hold a JSON object");
  return value;
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Reads and parses a JSON file of at most `maxBytes`. */
export async function readJsonObject(file: string, maxBytes: number): Promise<JsonObject> {
  return parseJsonObject((await readWholeFile(file, maxBytes)).toString("utf8"), file);
}

/**
 * Walks the brackets and strings once, before JSON.parse, so that a bomb of brackets costs no memory. It need not
 * reject malformed text: JSON.parse does.
 */
function checkNesting(text: string, file: string): void {
  const open: (Set<string> | undefined)[] = []; // keys of each open object; undefined for an array
  const structure = /["{}[\]]/g;
  const stringEnd = /["\\]/g;
  for (let match = structure.exec(text); match !== null; match = structure.exec(text)) {
    const at = match.index;
    switch (text[at]) {
      case "{":
      case "[":
        open.push(text[at] === "{" ? new Set() : undefined);
        if (open.length > maxDepth) throw badModel(file, `nests deeper than ${maxDepth} levels`);
        break;
      case "}":
      case "]":
        open.pop();
        break;
      default: {
        let end = at + 1;
        for (;;) {
          stringEnd.lastIndex = end;
          const stop = stringEnd.exec(text);
          if (stop === null) return; // unterminated
          if (text[stop.index] === '"') {
            end = stop.index + 1;
            break;
          }
          end = stop.index + 2;
        }
        structure.lastIndex = end;
        const keys = open.at(-1);
        if (keys && isFollowedByColon(text, end)) addKey(keys, text.slice(at, end), file);
      }
    }
  }
}

function isFollowedByColon(text: string, from: number): boolean {
  let at = from;
  while (text[at] === " " || text[at] === "\n" || text[at] === "\r" || text[at] === "\t") at++;
  return text[at] === ":";
}

function addKey(keys: Set<string>, literal: string, file: string): void {
  let key = literal;
  if (literal.includes("\\")) {
    try {
      key = `"${JSON.parse(literal)}"`;
    } catch {
      return; // JSON.parse of the whole reports it
    }
  }
  if (keys.has(key)) throw badModel(file, `repeats the key ${key.slice(0, 120)}`);
  keys.add(key);
}
