import { readFile } from "node:fs/promises";
import { DeftreeError } from "@deftree/engine";

/** A tree of a tree file: query i attends to all tokens on the path from the root to node `queries[i]`. */
export interface NamedTree {
  name: string;
  nodes: { parent: number; len: number }[];
  queries: number[];
}

const form = '[{"name": text, "nodes": [{"parent": node or -1, "len": tokens}], "queries": [node]}]';
const maxTokens = 2 ** 31 - 1;

/** @throws E_BAD_ARGUMENT that names file, tree, node and what is wrong. */
export async function readTreeFile(path: string): Promise<NamedTree[]> {
  return parseTrees(await readJson(path, "tree file"), path);
}

/** @throws E_BAD_ARGUMENT */
export async function readJson(path: string, what: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw badFile(`the ${what} ${path} cannot be read: ${(cause as Error).message}`, cause);
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw badFile(`the ${what} ${path} is not JSON: ${(cause as Error).message}`, cause);
  }
}

/** @throws E_BAD_ARGUMENT */
export function parseTrees(value: unknown, file: string): NamedTree[] {
  if (!Array.isArray(value) || value.length === 0) throw badFile(`${file} must hold a list of trees: ${form}`);
  const trees = value.map((entry, index) => parseTree(entry, index, file));
  for (const [index, { name }] of trees.entries()) {
    const first = trees.findIndex((tree) => tree.name === name);
    if (first !== index) throw badFile(`${file}: trees ${first} and ${index} are both named "${name}"`);
  }
  return trees;
}

function parseTree(value: unknown, index: number, file: string): NamedTree {
  const { name, nodes, queries } = (value ?? {}) as Partial<NamedTree>;
  if (typeof name !== "string" || name === "") throw badFile(`${file}: tree ${index} has no name; wanted is ${form}`);
  const bad = (what: string) => badFile(`${file}: tree ${index}, "${name}": ${what}`);
  if (!Array.isArray(nodes) || nodes.length === 0) throw bad("nodes must be a list with at least one node");
  if (!Array.isArray(queries) || queries.length === 0) throw bad("queries must be a list with at least one node");
  for (const [node, fields] of nodes.entries()) checkNode(node, fields, nodes.length, bad);
  checkReachesRoot(nodes, bad);
  for (const [query, node] of queries.entries()) {
    if (!isInteger(node, 0, nodes.length - 1)) {
      throw bad(`query ${query} is at node ${String(node)}; there are nodes 0 to ${nodes.length - 1}`);
    }
  }
  return { name, nodes: nodes.map(({ parent, len }) => ({ parent, len })), queries: [...queries] };
}

function checkNode(node: number, fields: unknown, numNodes: number, bad: (what: string) => Error): void {
  const { parent, len } = (fields ?? {}) as Partial<NamedTree["nodes"][number]>;
  if (!isInteger(parent, -1, numNodes - 1)) {
    throw bad(`node ${node} has parent ${String(parent)}; it must be -1 or a node, 0 to ${numNodes - 1}`);
  }
  if (!isInteger(len, parent === -1 ? 0 : 1, maxTokens)) {
    throw bad(`node ${node} has len ${String(len)}; it must be a number of tokens, and only a root may have 0`);
  }
}

function checkReachesRoot(nodes: NamedTree["nodes"], bad: (what: string) => Error): void {
  const reaches = new Set<number>();
  for (const node of nodes.keys()) {
    const path = new Set<number>();
    for (let at = node; at >= 0 && !reaches.has(at); at = nodes[at]!.parent) {
      if (path.has(at)) throw bad(`node ${node} hangs below itself`);
      path.add(at);
    }
    for (const seen of path) reaches.add(seen);
  }
}

export function isInteger(value: unknown, low: number, high: number): value is number {
  return Number.isInteger(value) && (value as number) >= low && (value as number) <= high;
}

export function badFile(message: string, cause?: unknown): DeftreeError {
  return new DeftreeError("E_BAD_ARGUMENT", message, { cause });
}
