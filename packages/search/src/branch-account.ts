/** The account of a search's branches: which are open, what they cost, what KV they hold together. */
import type { ThoughtBranch, TokenUsage } from "./thought-model.js";

interface Entry {
  branch: ThoughtBranch;
  parent: Entry | undefined;
  open: boolean;
  /** What it cost is in the sum of released branches. */
  isBooked: boolean;
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
    this.#entries.set(branch, { branch, parent: above, open: true, isBooked: false, children: 0 });
    if (above) above.children++;
    this.#open++;
  }

  /** Drops the branch and books what it cost; of one that decodes, when its decode has ended. Twice is fine. */
  release(branch: ThoughtBranch): void {
    const entry = this.#entries.get(branch);
    if (!entry?.open) return;
    entry.open = false;
    this.#open--;
    branch.release();
    if (entry.reserved === undefined) this.#close(entry);
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
      if (entry.reserved !== reserved) return;
      entry.reserved = undefined;
      if (!entry.open) this.#close(entry);
    };
  }

  /** Tokens that decodes under way may still take. */
  get reservedTokens(): number {
    let sum = 0;
    for (const { branch, reserved, open } of this.#entries.values()) {
      if (!reserved || !open) continue;
      sum += Math.max(0, reserved.maxTokens - (branch.usage.generatedTokens - reserved.before));
    }
    return sum;
  }

  /** Tokens whose KV the branches hold together; those that several share count once. Parents do not grow after a fork. */
  get heldTokens(): number {
    let sum = 0;
    for (const { branch, parent, open, children } of this.#entries.values()) {
      if (!open && children === 0) continue;
      sum += Math.max(0, (branch.length ?? 0) - (parent?.branch.length ?? 0));
    }
    return sum;
  }

  /** What all branches cost so far, open ones included. */
  usage(): TokenUsage {
    const sum = { ...this.#released };
    for (const { branch, isBooked } of this.#entries.values()) if (!isBooked) addUsage(sum, branch.usage);
    return sum;
  }

  #close(entry: Entry): void {
    entry.isBooked = true;
    addUsage(this.#released, entry.branch.usage);
    this.#forget(entry);
  }

  /** A closed branch is held as long as branches grow from it. */
  #forget(entry: Entry): void {
    if (!entry.isBooked || entry.children > 0) return;
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
