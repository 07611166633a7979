import type { DecodeStream, EngineBranch } from "@deftree/engine";

/**
 * Lets branches begin in the same step. Commands are taken when a step begins, so commands that are given one by one to an
 * idle engine would begin in different steps. Behind the gate each branch decodes; what is submitted meanwhile waits, and
 * begins for all when the gate opens and the tokens decoded behind it are dropped.
 */
export class Gate {
  readonly #opener = new AbortController();
  readonly #streams: DecodeStream[] = [];

  /** The branch waits, from when its commands so far are done. */
  hold(branch: EngineBranch, signal: AbortSignal | undefined): void {
    const both = signal ? AbortSignal.any([signal, this.#opener.signal]) : this.#opener.signal;
    const length = branch.length;
    this.#streams.push(branch.decode({ stopTokens: [], signal: both }));
    // Not awaited: an error of the branch shows at the decode.
    branch.truncate(length).catch(() => {});
  }

  /** All branches have decoded a token behind the gate. Rejects with the error of a branch. */
  async reached(): Promise<void> {
    await Promise.all(
      this.#streams.map(async (stream) => {
        for await (const _ of stream) return;
      }),
    );
  }

  open(): void {
    this.#opener.abort();
  }
}
