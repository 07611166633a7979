import { writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { f32s, type GgufToWrite, ggufFile, i32s, text, texts } from "../test/gguf-writer.js";
import { temporaryFolder } from "../test/temporary-folder.js";
import { setMetadata, tinyGguf } from "../test/tiny-gguf.js";
import { tinyConfig } from "../test/tiny-model.js";
import { hfTensorName, readGgufModel, ropeDivisor } from "./gguf-model.js";
import { ModelTokenizer } from "./tokenizer.js";

const root = temporaryFolder();

async function read(change: (gguf: GgufToWrite) => void) {
  const gguf = tinyGguf();
  change(gguf);
  const file = path.join(root, "model.gguf");
  writeFileSync(file, ggufFile(gguf));
  const files = await readGgufModel(file);
  return { files, tokenizer: new ModelTokenizer(files.tokenizer!, files.config.vocabSize) };
}

/** Appends the tensor in which GGUF keeps RoPE scaling. */
function addRopeFreqs(gguf: GgufToWrite, divisors: number[]): void {
  gguf.tensors.push({ name: "rope_freqs.weight", dims: [divisors.length], type: 0, offset: gguf.data.length });
  gguf.data = Buffer.concat([gguf.data, new Uint8Array(Float32Array.from(divisors).buffer)]);
}

describe("GGUF tensor names", () => {
  it.each([
    ["token_embd.weight", "model.embed_tokens.weight"],
    ["output_norm.weight", "model.norm.weight"],
    ["output.weight", "lm_head.weight"],
    ["blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight"],
    ["blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"],
    ["blk.3.attn_v.bias", "model.layers.3.self_attn.v_proj.bias"],
    ["blk.3.constructor.weight", "blk.3.constructor.weight"],
    ["toString.weight", "toString.weight"],
    ["rope_freqs.weight", "rope_freqs.weight"],
  ])("%s is %s", (gguf, hf) => expect(hfTensorName(gguf)).toBe(hf));
});

describe("RoPE scaling in GGUF", () => {
  const scaling = { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextLen: 8192 };
  const divisors = Array.from({ length: tinyConfig.headDim / 2 }, (_, index) =>
    ropeDivisor(scaling, tinyConfig.ropeTheta ** ((-2 * index) / tinyConfig.headDim)),
  );

  it("is found again from its divisors", async () => {
    expect(new Set(divisors).size).toBeGreaterThan(2);
    const { files } = await read((gguf) => addRopeFreqs(gguf, divisors));
    expect(files.config.ropeScaling).toEqual(scaling);
  });
  it("is none when all divisors are 1", async () => {
    const { files } = await read((gguf) =>
      addRopeFreqs(
        gguf,
        divisors.map(() => 1),
      ),
    );
    expect(files.config.ropeScaling).toBeUndefined();
  });
  it("is refused when the divisors are of another kind", async () => {
    const other = read((gguf) =>
      addRopeFreqs(
        gguf,
        divisors.map((divisor) => divisor ** 2),
      ),
    );
    await expect(other).rejects.toMatchObject({ code: "E_BAD_MODEL", message: expect.stringMatching(/rope_freqs/) });
    const short = read((gguf) => addRopeFreqs(gguf, divisors.slice(1)));
    await expect(short).rejects.toMatchObject({ code: "E_BAD_MODEL" });
  });
});

describe("GGUF tokenizers", () => {
  it("Llama 3's splits numbers into threes and keeps whole words", async () => {
    const { tokenizer } = await read((gguf) => setMetadata(gguf, "tokenizer.ggml.pre", text("llama-bpe")));
    expect(tokenizer.decode(tokenizer.encode("It's 12345 näive\n\n  x"))).toBe("It's 12345 näive\n\n  x");
  });

  it("a token that ends turns ends text, named or not", async () => {
    const { files } = await read((gguf) => {
      gguf.metadata = gguf.metadata.filter(([key]) => key !== "tokenizer.ggml.eos_token_id");
    });
    expect(files.tokenizer?.eosTokens).toEqual([2]); // <|im_end|>
  });

  it("SentencePiece's joins by score", async () => {
    const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    const pieces = ["▁", "a", "b", "c", "ab", "bc", "abc"];
    const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...pieces];
    while (tokens.length < tinyConfig.vocabSize) tokens.push(`[unused${tokens.length}]`);
    const scores = tokens.map((token) => ({ bc: -1, ab: -2, abc: -9 })[token] ?? -100);
    const types = tokens.map((token, id) => (id === 0 ? 2 : id < 3 ? 3 : bytes.includes(token) ? 6 : 1));
    const { tokenizer, files } = await read((gguf) => {
      setMetadata(gguf, "tokenizer.ggml.model", text("llama"));
      setMetadata(gguf, "tokenizer.ggml.tokens", texts(tokens));
      setMetadata(gguf, "tokenizer.ggml.token_type", i32s(types));
      setMetadata(gguf, "tokenizer.ggml.scores", f32s(scores));
    });
    const id = (token: string) => tokens.indexOf(token);
    expect(tokenizer.encode("ab")).toEqual([id("▁"), id("ab")]);
    expect(tokenizer.encode("abc")).toEqual([id("▁"), id("abc")]); // bc first, by its score, then a with bc
    expect(tokenizer.encode("abcc")).toEqual([id("▁"), id("abc"), id("c")]);
    expect(tokenizer.encode("ä")).toEqual([id("▁"), id("<0xC3>"), id("<0xA4>")]);
    expect(tokenizer.decode(tokenizer.encode("abc ä</s>"))).toBe("abc ä</s>");
    expect(tokenizer.encode("</s>")).not.toContain(2);
    expect(tokenizer.encodeWithSpecialTokens("</s>")).toEqual([2]);
    expect(files.tokenizer?.bosToken).toBeUndefined();
  });
});
