/** Hears a signal once, however many requests it ends: one search has hundreds on its signal. */
export class AbortWatch {
  readonly #watched = new Map<AbortSignal, { requests: Set<number>; onAbort: () => void }>();
  readonly #cancel: (requests: number[]) => void;

  /** @param cancel is told the requests of a signal when it aborts. */
  constructor(cancel: (requests: number[]) => void) {
    this.#cancel = cancel;
  }

  /** @returns a function that takes the request off the signal. Twice is fine. */
  watch(request: number, signal: AbortSignal): () => void {
    const { requests } = this.#watched.get(signal) ?? this.#listen(signal);
    requests.add(request);
    return () => {
      if (requests.delete(request) && requests.size === 0) this.#forget(signal);
    };
  }

  #listen(signal: AbortSignal): { requests: Set<number> } {
    const requests = new Set<number>();
    const onAbort = () => {
      this.#forget(signal);
      this.#cancel([...requests]);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    this.#watched.set(signal, { requests, onAbort });
    return { requests };
  }

  #forget(signal: AbortSignal): void {
    const watched = this.#watched.get(signal);
    if (watched === undefined) return;
    this.#watched.delete(signal);
    signal.removeEventListener("abort", watched.onAbort);
  }
}
