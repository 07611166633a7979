import { join } from "node:path";
import type { ReplayNode, ReplayTree } from "./replay-tree.js";
import { badFile, isInteger, readJson } from "./tree-file.js";

/** Recorded reasoning trees -> their files in a template folder. */
export const recordedWorkloads = {
  sorting128: "sorting128ToT.json",
  docmerge: "docmergeToT.json",
  keyword: "keywordToT.json",
  set128: "set128ToT.json",
} as const;
export type RecordedWorkload = keyof typeof recordedWorkloads;

/** What a template folder holds, for the message to who has none. */
export const templateLayout =
  "a folder with sorting128ToT.json, docmergeToT.json, keywordToT.json and set128ToT.json " +
  '({"trees": [[[tokens, start step, end step, [children]], ...], ...]}, node 0 the prompt) and medusa.json ' +
  '({"topologies": {"64": [[0], [0, 1], ...]}}): the shapes that DeFT recorded (github.com/LINs-lab/DeFT, dataset/generation)';

/** @throws E_BAD_ARGUMENT that names file, tree, node and what is wrong. */
export async function readRecordedTree(folder: string, workload: RecordedWorkload, index: number): Promise<ReplayTree> {
  const file = join(folder, recordedWorkloads[workload]);
  const { trees } = ((await readJson(file, "template")) ?? {}) as { trees?: unknown };
  if (!Array.isArray(trees) || trees.length === 0)
    throw badFile(`${file} has no list "trees"; wanted is ${templateLayout}`);
  if (index >= trees.length) throw badFile(`--tree ${index}: ${file} has trees 0 to ${trees.length - 1}`);
  return { name: `${workload} ${index}`, nodes: parseNodes(trees[index], `${file}: tree ${index}`) };
}

/** @throws E_BAD_ARGUMENT */
export function parseNodes(value: unknown, where: string): ReplayNode[] {
  if (!Array.isArray(value) || value.length < 2) throw badFile(`${where} must be a list of a prompt and thoughts`);
  const nodes = value.map((entry: unknown, id): ReplayNode => {
    const [tokens, start, end, children] = Array.isArray(entry) ? entry : [];
    const isNode =
      isInteger(tokens, 0, 2 ** 24) && Number.isInteger(start) && Number.isInteger(end) && Array.isArray(children);
    if (!isNode) throw badFile(`${where}: node ${id} must be [tokens, start step, end step, [children]]`);
    if (end !== start + tokens - 1) {
      throw badFile(`${where}: node ${id} has ${tokens} tokens but steps ${start} to ${end}`);
    }
    return { tokens, start, end, children };
  });
  if (nodes[0]!.end !== 0 || nodes[0]!.tokens === 0)
    throw badFile(`${where}: node 0 must be a prompt that ends at step 0`);
  const hasParent = new Set<number>();
  for (const [id, { children, end }] of nodes.entries()) {
    for (const child of children) {
      if (!isInteger(child, id + 1, nodes.length - 1)) {
        throw badFile(
          `${where}: node ${id} has the child ${String(child)}; children are later nodes below ${nodes.length}`,
        );
      }
      if (hasParent.has(child)) throw badFile(`${where}: node ${child} has two parents`);
      hasParent.add(child);
      if (nodes[child]!.start !== end + 1) {
        throw badFile(`${where}: node ${child} starts at step ${nodes[child]!.start}, its parent ${id} ends at ${end}`);
      }
    }
  }
  const lost = nodes.findIndex((_, id) => id > 0 && !hasParent.has(id));
  if (lost > 0) throw badFile(`${where}: node ${lost} has no parent`);
  return nodes;
}

/**
 * Medusa's token tree of `size` draft tokens: the parent of each, -1 for the prompt's last token.
 * @throws E_BAD_ARGUMENT
 */
export async function readTokenTree(folder: string, size: number): Promise<number[]> {
  const file = join(folder, "medusa.json");
  const { topologies } = ((await readJson(file, "template")) ?? {}) as { topologies?: Record<string, unknown> };
  const paths = topologies?.[size];
  if (!Array.isArray(paths)) {
    const known = Object.keys(topologies ?? {}).join(", ");
    throw badFile(`${file} has no topology "${size}"${known ? `; it has ${known}` : `; wanted is ${templateLayout}`}`);
  }
  return parseTokenTree(paths, `${file}: topology ${size}`);
}

/** Paths of child numbers ("[0, 1]": the second child of the first) -> parents. @throws E_BAD_ARGUMENT */
export function parseTokenTree(paths: readonly unknown[], where: string): number[] {
  const index = new Map<string, number>();
  for (const [at, path] of paths.entries()) {
    if (!Array.isArray(path) || path.length === 0)
      throw badFile(`${where}: entry ${at} must be a list of child numbers`);
    index.set(path.join(","), at);
  }
  return paths.map((path, at) => {
    const above = (path as number[]).slice(0, -1);
    const parent = above.length === 0 ? -1 : index.get(above.join(","));
    if (parent === undefined) throw badFile(`${where}: entry ${at} hangs below [${above}], which is not there`);
    return parent;
  });
}
