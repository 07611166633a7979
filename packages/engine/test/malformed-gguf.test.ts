/** GGUF files that are broken or lie: each must give a typed error that names the file. */
import { truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "vitest";
import { expectRefused, loadHeaders } from "./expect-refused.js";
import { bool, f32, type GgufToWrite, ggufFile, i32s, text, texts, u32 } from "./gguf-writer.js";
import { temporaryFolder } from "./temporary-folder.js";
import { setMetadata, tinyGguf } from "./tiny-gguf.js";

const root = temporaryFolder();
let numFiles = 0;

describe("GGUF", () => {
  const whole = ggufFile(tinyGguf());

  async function expectGgufRefused(bytes: Uint8Array): Promise<void> {
    const file = path.join(root, `bad-${numFiles++}.gguf`);
    writeFileSync(file, bytes);
    await expectRefused(file, file);
  }

  const cuts = [
    0,
    3,
    4,
    8,
    16,
    23,
    24,
    25,
    40,
    100,
    500,
    1000,
    2000,
    4000,
    6000,
    whole.length - 1,
    whole.length - 5000,
  ];
  it.each(cuts)("cut after %i bytes", async (length) => expectGgufRefused(whole.subarray(0, length)));

  it("untouched loads", async () => {
    const file = path.join(root, "good.gguf");
    writeFileSync(file, whole);
    await loadHeaders(file);
  });

  it("cut anywhere in its header", async () => {
    const file = path.join(root, "cut.gguf");
    const headerBytes = whole.length - tinyGguf().data.length;
    writeFileSync(file, whole.subarray(0, headerBytes));
    for (let length = headerBytes - 1; length >= 0; length -= 37) {
      truncateSync(file, length);
      await expectRefused(file, file);
    }
  });

  it("a header of 24 bytes that claims 2^60 tensors", async () => {
    await expectGgufRefused(
      ggufFile({ metadata: [], tensors: [], data: new Uint8Array(0), numTensors: 2n ** 60n }).subarray(0, 24),
    );
  });

  const lies: Record<string, (gguf: GgufToWrite) => void> = {
    "2^60 tensors": (gguf) => Object.assign(gguf, { numTensors: 2n ** 60n }),
    "2^64-1 metadata entries": (gguf) => Object.assign(gguf, { numMetadata: 2n ** 64n - 1n }),
    "more tensors than it has": (gguf) => Object.assign(gguf, { numTensors: BigInt(gguf.tensors.length + 1) }),
    "version 1": (gguf) => Object.assign(gguf, { version: 1 }),
    "version 99": (gguf) => Object.assign(gguf, { version: 99 }),
    "big-endian numbers": (gguf) => Object.assign(gguf, { version: 0x03000000 }),
    "a repeated metadata key": (gguf) => gguf.metadata.push(gguf.metadata[0]!),
    "a repeated tensor": (gguf) => gguf.tensors.push(gguf.tensors[0]!),
    "another architecture": (gguf) => setMetadata(gguf, "general.architecture", text("mamba")),
    "a number for the architecture": (gguf) => setMetadata(gguf, "general.architecture", u32(1)),
    "an alignment of zero": (gguf) => setMetadata(gguf, "general.alignment", u32(0)),
    "an alignment that is no power of two": (gguf) => setMetadata(gguf, "general.alignment", u32(33)),
    "a text for the alignment": (gguf) => setMetadata(gguf, "general.alignment", text("32")),
    "zero heads": (gguf) => setMetadata(gguf, "llama.attention.head_count", u32(0)),
    "a text for a number": (gguf) => setMetadata(gguf, "llama.block_count", text("2")),
    "four billion layers": (gguf) => setMetadata(gguf, "llama.block_count", u32(2 ** 32 - 1)),
    experts: (gguf) => setMetadata(gguf, "llama.expert_count", u32(8)),
    "a NaN base": (gguf) => setMetadata(gguf, "llama.rope.freq_base", f32(Number.NaN)),
    "linear RoPE scaling": (gguf) => {
      setMetadata(gguf, "llama.rope.scaling.type", text("linear"));
      setMetadata(gguf, "llama.rope.scaling.factor", f32(2));
    },
    "a RoPE width that is not the head's": (gguf) => setMetadata(gguf, "llama.rope.dimension_count", u32(32)),
    "an unknown pre-tokenizer": (gguf) => setMetadata(gguf, "tokenizer.ggml.pre", text("constructor")),
    "an unknown tokenizer": (gguf) => setMetadata(gguf, "tokenizer.ggml.model", text("bert")),
    "no tokens": (gguf) => setMetadata(gguf, "tokenizer.ggml.tokens", texts([])),
    "fewer token types than tokens": (gguf) => setMetadata(gguf, "tokenizer.ggml.token_type", i32s([1, 2])),
    "more tokens than the embedding has": (gguf) => {
      setMetadata(gguf, "tokenizer.ggml.tokens", texts(Array.from({ length: 500 }, (_, id) => `t${id}`)));
      setMetadata(gguf, "tokenizer.ggml.token_type", i32s(Array(500).fill(1)));
    },
    "a merge of one": (gguf) => setMetadata(gguf, "tokenizer.ggml.merges", texts(["ab"])),
    "booleans for merges": (gguf) => setMetadata(gguf, "tokenizer.ggml.merges", bool(true)),
    "a missing tensor": (gguf) => gguf.tensors.pop(),
    "an unknown type": (gguf) => Object.assign(gguf.tensors[0]!, { type: 4 }),
    "a type from the prototype": (gguf) => Object.assign(gguf.tensors[0]!, { type: 2 ** 31 }),
    "rows that are no whole number of blocks": (gguf) => Object.assign(gguf.tensors[1]!, { dims: [33, 1], type: 8 }),
    "a zero dimension": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [128, 0] }),
    "dimensions that overflow": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [2 ** 32, 2 ** 32] }),
    "dimensions whose bytes wrap to little": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [2n ** 62n, 1n] }),
    "five dimensions": (gguf) => Object.assign(gguf.tensors[0]!, { dims: [128, 268, 1, 1, 1] }),
    "an offset beyond the file": (gguf) => Object.assign(gguf.tensors[0]!, { offset: 2n ** 40n }),
    "an offset that wraps": (gguf) => Object.assign(gguf.tensors[0]!, { offset: 2n ** 64n - 32n }),
    "an offset off the alignment": (gguf) => Object.assign(gguf.tensors[0]!, { offset: 16 }),
    "tensors that overlap": (gguf) => Object.assign(gguf.tensors[1]!, { offset: 0 }),
    "a transposed tensor": (gguf) => gguf.tensors[0]!.dims.reverse(),
    "a bias": (gguf) =>
      gguf.tensors.push({ name: "blk.0.attn_q.bias", dims: [1], type: 0, offset: gguf.data.length }) &&
      Object.assign(gguf, { data: Buffer.concat([gguf.data, Buffer.alloc(32)]) }),
  };
  for (const [name, lie] of Object.entries(lies)) {
    it(`with ${name}`, async () => {
      const gguf = tinyGguf();
      lie(gguf);
      await expectGgufRefused(ggufFile(gguf));
    });
  }

  /** Header with one metadata entry, written by hand. */
  const oneEntry = (...parts: Buffer[]) => {
    const count = Buffer.alloc(16);
    count.writeBigUInt64LE(1n, 8);
    return Buffer.concat([Buffer.from("GGUF"), Buffer.from([3, 0, 0, 0]), count, ...parts]);
  };
  const length = (value: bigint) => {
    const buffer = Buffer.alloc(8);
    buffer.writeBigUInt64LE(value);
    return buffer;
  };
  const type = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
  const key = Buffer.concat([length(1n), Buffer.from("k")]);
  const padding = Buffer.alloc(64);
  const raw: Record<string, Buffer> = {
    "a key of 2^62 bytes": oneEntry(length(2n ** 62n), padding),
    "a text of 2^62 bytes": oneEntry(key, type(8), length(2n ** 62n), padding),
    "an array of 2^62 elements": oneEntry(key, type(9), type(8), length(2n ** 62n), padding),
    "an array of unknown type": oneEntry(key, type(9), type(77), length(2n), padding),
    "a value of unknown type": oneEntry(key, type(13), padding),
    "arrays in arrays in arrays": oneEntry(
      key,
      ...Array.from({ length: 30 }, () => Buffer.concat([type(9), type(9), length(1n)])),
      padding,
    ),
  };
  for (const [name, bytes] of Object.entries(raw)) it(`with ${name}`, async () => expectGgufRefused(bytes));
});
