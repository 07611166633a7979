import type { Engine } from "@deftree/engine";
import { median } from "./machine.js";
import { readTokenTree } from "./templates.js";
import { verifyDrafts } from "./verify-drafts.js";

/** What it costs to verify a draft of one shape, whatever its tokens are. */
export interface VerificationCostRow {
  /** A star: as many drafts of one token; a tree: Medusa's recorded token tree. */
  shape: "star" | "tree";
  queryTokens: number;
  promptTokens: number;
  /** Median of the steps. */
  stepMs: number;
  /** To a step of one query token. */
  ratio: number;
}

export interface VerificationCostOptions {
  promptTokens: number;
  steps: number;
  /** Folder with Medusa's token trees, medusa.json. */
  templates?: string;
  signal?: AbortSignal;
  onRow?(row: VerificationCostRow): void;
}

/** Query tokens of a star. */
const verificationSizes: readonly number[] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const treeSize = 64;

/** What the largest star takes: pages that are partly filled, and what is decoded behind the gate. */
export function verificationKvTokens(promptTokens: number): number {
  const slackPerBranch = 64;
  return promptTokens + verificationSizes.at(-1)! * (1 + slackPerBranch) + 1024;
}

/** Stars of 1 to 256 query tokens over one prompt, and Medusa's tree of 64 where there are templates. */
export async function measureVerificationCost(
  engine: Engine,
  { promptTokens, steps, templates, signal, onRow }: VerificationCostOptions,
): Promise<VerificationCostRow[]> {
  const star = (size: number) => ({ shape: "star" as const, parents: new Array<number>(size).fill(-1) });
  const drafts: { shape: "star" | "tree"; parents: number[] }[] = verificationSizes.map(star);
  if (templates !== undefined) drafts.push({ shape: "tree", parents: await readTokenTree(templates, treeSize) });
  const rows: VerificationCostRow[] = [];
  for (const { shape, parents } of drafts) {
    // The first time, a GPU chooses its algorithms and records its graphs.
    await verifyDrafts(engine, { parents, promptTokens, steps: 2, signal });
    const { stepMs } = await verifyDrafts(engine, { parents, promptTokens, steps: steps + 1, signal });
    if (signal?.aborted || stepMs.length === 0) break;
    const ms = median(stepMs);
    const row = { shape, queryTokens: parents.length, promptTokens, stepMs: ms, ratio: ms / (rows[0]?.stepMs ?? ms) };
    rows.push(row);
    onRow?.(row);
  }
  return rows;
}
