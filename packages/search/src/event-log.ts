/** Events of one search, kept in order; every iterator reads them all from the first, as they come. */
export class EventLog<Event> {
  readonly #events: Event[] = [];
  #waiting: (() => void)[] = [];
  #closed = false;
  #error: unknown;

  push(event: Event): void {
    this.#events.push(event);
    this.#wake();
  }

  /** No more events; iterators end, or throw `error` after the last event. */
  close(error?: unknown): void {
    this.#closed = true;
    this.#error = error;
    this.#wake();
  }

  async *read(): AsyncGenerator<Event, void, void> {
    for (let next = 0; ; ) {
      while (next < this.#events.length) yield this.#events[next++]!;
      if (this.#closed) {
        if (this.#error !== undefined) throw this.#error;
        return;
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}
