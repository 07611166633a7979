/**
 * Speculation on the level of thoughts: while a thought is being scored, its first children are grown already. They have the
 * numbers, seeds and fork numbers that they would have had, so a search that keeps the parent takes them over as its next
 * thoughts, and its tree is the one that it would have grown without. One that drops the parent drops them with it.
 */
import type { SearchEvent, ThoughtId } from "./events.js";
import type { Growth } from "./growth.js";
import type { ThoughtBranch } from "./thought-model.js";

/** The children that grow ahead from one branch. */
interface Brood {
  parent: ThoughtId;
  /** Number of its first child among those forked from the branch. */
  first: number;
  /** How they decode: only a strategy that asks for the same takes them. */
  shape: string;
  growths: Growth[];
  /** Ends those that are dropped. */
  controller: AbortController;
}

export class ThoughtsAhead {
  /** Tokens of thoughts that were dropped. */
  wastedTokens = 0;
  readonly #broods = new Map<ThoughtBranch, Brood>();
  readonly #seen = new Set<string>();
  readonly #ending = new Set<Promise<void>>();

  constructor(
    private readonly release: (branch: ThoughtBranch) => void,
    private readonly emit: (event: SearchEvent<never, never>) => void,
  ) {}

  /** False when it was asked for `key` before. */
  isFirst(key: string): boolean {
    if (this.#seen.has(key)) return false;
    this.#seen.add(key);
    return true;
  }

  add(branch: ThoughtBranch, brood: Brood): void {
    this.#broods.set(branch, brood);
    this.emit({ type: "ahead:started", parent: brood.parent, thoughts: brood.growths.length });
  }

  /** Up to `count` children from number `first` on that grow in this shape; a brood of other ones is dropped. */
  take(branch: ThoughtBranch, first: number, count: number, shape: string): Growth[] {
    const brood = this.#broods.get(branch);
    if (brood === undefined) return [];
    if (brood.first !== first || brood.shape !== shape) {
      this.drop(branch);
      return [];
    }
    const taken = brood.growths.splice(0, count);
    brood.first += taken.length;
    if (brood.growths.length === 0) this.#broods.delete(branch);
    return taken;
  }

  /** Drops what grows ahead from `branch`. */
  drop(branch: ThoughtBranch): void {
    const brood = this.#broods.get(branch);
    if (brood === undefined) return;
    this.#broods.delete(branch);
    const ending = this.#end(brood).finally(() => this.#ending.delete(ending));
    this.#ending.add(ending);
  }

  /** @returns whether there were any. */
  dropAll(): boolean {
    const branches = [...this.#broods.keys()];
    for (const branch of branches) this.drop(branch);
    return branches.length > 0;
  }

  /** Resolves when all that was dropped has ended, and is counted. */
  async ended(): Promise<void> {
    await Promise.all(this.#ending);
  }

  async #end({ parent, growths, controller }: Brood): Promise<void> {
    controller.abort();
    for (const { branch } of growths) this.release(branch);
    await Promise.allSettled(growths.map(({ decoded }) => decoded));
    const tokens = growths.reduce((sum, { branch }) => sum + branch.usage.generatedTokens, 0);
    this.wastedTokens += tokens;
    this.emit({ type: "ahead:dropped", parent, thoughts: growths.length, tokens });
  }
}
