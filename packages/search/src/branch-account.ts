/** The account of a search's branches: which are open, what they cost, what KV they hold together. */
import type { ThoughtBranch, TokenUsage } from "./thought-model.js";

interface Entry {
  branch: ThoughtBranch;
  parent: Entry | undefined;
  open: boolean;
  /** Children that are open, or whose descendants are. */
  children: number;
  /** While it decodes: tokens it may take, and its tokens before. */
  reserved?: { maxTokens: number; before: number };
}

export class BranchAccount {
  readonly #entries = new Map<ThoughtBranch, Entry>();
  readonly #released: TokenUsage = { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
  #open = 0;

  get openBranches(): number {
    return this.#open;
  }

  add(branch: ThoughtBranch, parent?: ThoughtBranch): void {
    const above = parent && this.#entries.get(parent);
    this.#entries.set(branch, { branch, parent: above, open: true, children: 0 });
    if (above) above.children++;
    this.#open++;
  }

  /** Drops the branch and books what it cost. Twice is fine. */
  release(branch: ThoughtBranch): void {
    const entry = this.#entries.get(branch);
    if (!entry?.open) return;
    entry.open = false;
    this.#open--;
    branch.release();
    addUsage(this.#released, branch.usage);
    this.#forget(entry);
  }

  releaseAll(): void {
    for (const branch of [...this.#entries.keys()]) this.release(branch);
  }

  /** Reserves the tokens of a decode until the returned function is called. */
  reserve(branch: ThoughtBranch, maxTokens: number): () => void {
    const entry = this.#entries.get(branch);
    if (entry === undefined) return () => {};
    const reserved = { maxTokens, before: branch.usage.generatedTokens };
    entry.reserved = reserved;
    return () => {
      if (entry.reserved === reserved) entry.reserved = undefined;
    };
  }

  /** Tokens that decodes under way may still take. */
  get reservedTokens(): number {
    let sum = 0;
    for (const { branch, reserved } of this.#entries.values()) {
      if (reserved) sum += Math.max(0, reserved.maxTokens - (branch.usage.generatedTokens - reserved.before));
    }
    return sum;
  }

  /** Tokens whose KV the branches hold together; those that several share count once. Parents do not grow after a fork. */
  get heldTokens(): number {
    let sum = 0;
    for (const { branch, parent } of this.#entries.values()) {
      sum += Math.max(0, (branch.length ?? 0) - (parent?.branch.length ?? 0));
    }
    return sum;
  }

  /** What all branches cost so far, open ones included. */
  usage(): TokenUsage {
    const sum = { ...this.#released };
    for (const { branch, open } of this.#entries.values()) if (open) addUsage(sum, branch.usage);
    return sum;
  }

  /** A closed branch is held as long as branches grow from it. */
  #forget(entry: Entry): void {
    if (entry.open || entry.children > 0) return;
    this.#entries.delete(entry.branch);
    if (entry.parent === undefined) return;
    entry.parent.children--;
    this.#forget(entry.parent);
  }
}

function addUsage(sum: TokenUsage, usage: Readonly<TokenUsage>): void {
  sum.generatedTokens += usage.generatedTokens;
  sum.promptTokens += usage.promptTokens;
  sum.prefilledTokens += usage.prefilledTokens;
}
