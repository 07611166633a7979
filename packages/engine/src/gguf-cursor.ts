import { closeSync, openSync, readSync } from "node:fs";
import { badModel } from "./bad-model.js";

const windowBytes = 1 << 20;
const maxStringBytes = 16 << 20;

/**
 * Reads GGUF's scalars from front to back through a window on the file. Every read is checked against the file's size;
 * what lies beyond is E_BAD_MODEL.
 */
export class GgufCursor {
  readonly file: string;
  readonly #size: number;
  readonly #descriptor: number;
  #window = Buffer.alloc(0);
  #windowStart = 0;
  #offset = 0;

  constructor(file: string, size: number) {
    this.file = file;
    this.#size = size;
    this.#descriptor = openSync(file, "r");
  }

  /** From the start of the file. */
  get offset(): number {
    return this.#offset;
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  u8(): number {
    return this.#take(1).readUInt8();
  }
  i8(): number {
    return this.#take(1).readInt8();
  }
  u16(): number {
    return this.#take(2).readUInt16LE();
  }
  i16(): number {
    return this.#take(2).readInt16LE();
  }
  u32(): number {
    return this.#take(4).readUInt32LE();
  }
  i32(): number {
    return this.#take(4).readInt32LE();
  }
  f32(): number {
    return this.#take(4).readFloatLE();
  }
  u64(): bigint {
    return this.#take(8).readBigUInt64LE();
  }
  i64(): bigint {
    return this.#take(8).readBigInt64LE();
  }
  f64(): number {
    return this.#take(8).readDoubleLE();
  }

  string(maxBytes = maxStringBytes): string {
    const length = this.u64();
    if (length > BigInt(maxBytes))
      throw badModel(this.file, `has a string of ${length} bytes; at most ${maxBytes} are read`);
    return this.#take(Number(length)).toString("utf8");
  }

  /** A count of things of at least `minBytes` each: it must fit into what is left of the file, and under `limit`. */
  count(what: string, minBytes: number, limit: number): number {
    const value = this.u64();
    const possible = Math.min(limit, Math.floor((this.#size - this.#offset) / minBytes));
    if (value > BigInt(possible)) {
      throw badModel(this.file, `says that it has ${value} ${what}; at most ${possible} are possible`, {
        figures: { count: Number(value), possible },
      });
    }
    return Number(value);
  }

  /** Valid until the next call. */
  #take(length: number): Buffer {
    const end = this.#offset + length;
    if (end > this.#size)
      throw badModel(this.file, `ends after ${this.#size} bytes, inside of its header (half-copied?)`);
    if (end > this.#windowStart + this.#window.length) this.#fill(length);
    const start = this.#offset - this.#windowStart;
    this.#offset = end;
    return this.#window.subarray(start, start + length);
  }

  #fill(atLeast: number): void {
    const length = Math.min(Math.max(atLeast, windowBytes), this.#size - this.#offset);
    if (this.#window.length < length) this.#window = Buffer.allocUnsafe(length);
    const bytesRead = readSync(this.#descriptor, this.#window, 0, length, this.#offset);
    if (bytesRead < atLeast) throw badModel(this.file, "became shorter while it was read");
    this.#window = this.#window.subarray(0, bytesRead);
    this.#windowStart = this.#offset;
  }
}
