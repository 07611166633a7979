import { describe, expect, it } from "vitest";
import { tinyTokenizer, tinyVocabSize } from "../test/tiny-tokenizer.js";
import { ModelTokenizer } from "./tokenizer.js";

function tokenizerOf(tokenizerJson: Record<string, unknown>, vocabSize = tinyVocabSize): ModelTokenizer {
  return new ModelTokenizer(
    {
      file: "tokenizer.json",
      tokenizerJson: tokenizerJson as never,
      eosTokens: [2],
      bosToken: undefined,
      addBosToken: false,
    },
    vocabSize,
  );
}

const texts = ["", "a", "the then", "näive 日本 😀", "x<|im_end|>y", "\n\n\n", "\uFEFFa", "½ 12"];

describe("byte-level tokenizer", () => {
  const tokenizer = tokenizerOf(tinyTokenizer());

  it.each(texts)("decodes what it encodes: %j", (text) => {
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    expect(Buffer.concat(tokenizer.encode(text).map((token) => tokenizer.tokenBytes(token))).toString("utf8")).toBe(
      text,
    );
  });

  it("parses special tokens in templates' text only", () => {
    expect(tokenizer.encodeWithSpecialTokens("x<|im_end|>y")).toEqual([
      ...tokenizer.encode("x"),
      2,
      ...tokenizer.encode("y"),
    ]);
    expect(tokenizer.encode("x<|im_end|>y")).not.toContain(2);
  });

  it("merges across the segments of a prompt, up to special tokens", () => {
    const segments = [
      { text: "<|im_start|>t", trusted: true },
      { text: "he", trusted: false },
    ];
    expect(tokenizer.encodeSegments(segments)).toEqual(tokenizer.encodeWithSpecialTokens("<|im_start|>the"));
  });

  it("leaves special tokens and unused ids out of text", () => {
    expect(tokenizer.decode([1, 2, tinyVocabSize - 1])).toBe("");
    expect(tokenizer.tokenBytes(2)).toHaveLength(0);
  });

  it("names a token outside of the vocabulary", () => {
    expect(() => tokenizer.tokenBytes(tinyVocabSize)).toThrow(
      expect.objectContaining({ code: "E_BAD_ARGUMENT", figures: { token: tinyVocabSize, vocabSize: tinyVocabSize } }),
    );
  });

  it("refuses a tokenizer with more tokens than the model, and unknown decoders", () => {
    expect(() => tokenizerOf(tinyTokenizer(), 100)).toThrow(expect.objectContaining({ code: "E_BAD_MODEL" }));
    expect(() => tokenizerOf({ ...tinyTokenizer(), decoder: { type: "WordPiece" } })).toThrow(/WordPiece/);
  });
});

describe("SentencePiece tokenizer", () => {
  const pieces = [
    "<unk>",
    "<s>",
    "</s>",
    ...Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
    "▁",
    "h",
    "i",
    "hi",
    "▁hi",
  ];
  const tokenizer = tokenizerOf(
    {
      added_tokens: [0, 1, 2].map((id) => ({ id, content: pieces[id]!, special: true })),
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "Prepend", prepend: "▁" },
          { type: "Replace", pattern: { String: " " }, content: "▁" },
        ],
      },
      pre_tokenizer: null,
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
        ],
      },
      model: {
        type: "BPE",
        vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
        merges: ["h i", "▁ hi"],
        byte_fallback: true,
        unk_token: "<unk>",
      },
    },
    pieces.length,
  );

  it("encodes with a space before the text and gives the text back", () => {
    expect(tokenizer.encode("hi hi")).toEqual([pieces.indexOf("▁hi"), pieces.indexOf("▁hi")]);
    for (const text of ["hi", "hi hi", " hi", "ß😀"]) expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  });

  it("has one byte for each fallback token", () => {
    expect(tokenizer.tokenBytes(pieces.indexOf("<0xE4>"))).toEqual(Uint8Array.of(0xe4));
    expect(Buffer.from(tokenizer.tokenBytes(pieces.indexOf("▁hi"))).toString()).toBe(" hi");
  });

  it("does not parse special tokens or byte names in users' text", () => {
    expect(tokenizer.encode("</s>")).not.toContain(2);
    expect(tokenizer.encode("<0x41>")).not.toEqual([pieces.indexOf("▁"), pieces.indexOf("<0x41>")]);
    expect(tokenizer.decode(tokenizer.encode("<0x41></s>"))).toBe("<0x41></s>");
  });
});
