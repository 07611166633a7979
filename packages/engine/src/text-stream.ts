/** Bytes of decoded tokens -> text that is final: whole characters, and nothing that may become a stop string. */

export interface StopMatch {
  /** Which of the stop strings. */
  index: number;
}

/**
 * Holds back bytes that a later token could complete to a stop string, and characters that are not whole yet. After a
 * stop string was met, text from its first byte on is dropped.
 */
export class TextStream {
  readonly #stops: readonly Buffer[];
  #held: Buffer = Buffer.alloc(0);
  #match: StopMatch | undefined;

  constructor(stopStrings: readonly Uint8Array[] = []) {
    this.#stops = stopStrings.map((stop) => Buffer.from(stop));
  }

  /** The stop string that was met, the first one in the text. */
  get match(): StopMatch | undefined {
    return this.#match;
  }

  /** Whether bytes wait for what comes next. */
  get isHolding(): boolean {
    return this.#held.length > 0;
  }

  /** @returns the text that became final with these bytes. */
  push(bytes: Uint8Array): string {
    if (this.#match) return "";
    const pending = Buffer.concat([this.#held, bytes]);
    const found = this.#firstStop(pending);
    if (found) {
      this.#match = { index: found.index };
      this.#held = Buffer.alloc(0);
      return decodeUtf8(pending.subarray(0, found.start));
    }
    const final = pending.length - Math.max(this.#possibleStopLength(pending), incompleteCharacterLength(pending));
    this.#held = pending.subarray(final);
    return decodeUtf8(pending.subarray(0, final));
  }

  /** @returns what was held back, when no more bytes come. An incomplete character becomes U+FFFD. */
  flush(): string {
    if (this.#match) return "";
    const rest = this.#held;
    this.#held = Buffer.alloc(0);
    return decodeUtf8(rest);
  }

  #firstStop(pending: Buffer): { index: number; start: number } | undefined {
    let first: { index: number; start: number } | undefined;
    for (const [index, stop] of this.#stops.entries()) {
      const start = pending.indexOf(stop);
      if (start >= 0 && (!first || start < first.start)) first = { index, start };
    }
    return first;
  }

  /** Length of the longest end of `pending` that begins a stop string. */
  #possibleStopLength(pending: Buffer): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, pending.length); length > longest; length--) {
        if (pending.subarray(pending.length - length).equals(stop.subarray(0, length))) longest = length;
      }
    }
    return longest;
  }
}

function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

/** Length of the last character's bytes when more of it must follow, else 0. */
function incompleteCharacterLength(bytes: Uint8Array): number {
  for (let length = 1; length <= Math.min(3, bytes.length); length++) {
    const byte = bytes[bytes.length - length]!;
    if ((byte & 0b1100_0000) === 0b1000_0000) continue;
    const wanted = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return wanted > length ? length : 0;
  }
  return 0;
}
