/** GGUF's `tokenizer.ggml.*` metadata -> the tokenizer.json that says the same. */
import { badModel } from "./bad-model.js";
import type { GgufHeader, GgufValue } from "./gguf.js";
import type { TokenizerSource } from "./model-files.js";
import type { JsonObject } from "./strict-json.js";

/** `tokenizer.ggml.token_type` */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Tokens that end a turn, beside the file's own end-of-text token. Llama-3 files often name only `<|end_of_text|>`. */
const endOfTurn = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>"];

/** The pre-tokenizer of Llama 3, as its tokenizer.json has it. */
const llama3Pattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const byteLevel = (useRegex: boolean): JsonObject => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});

/** Pre-tokenizers by `tokenizer.ggml.pre`. */
const preTokenizers: Readonly<Record<string, JsonObject>> = {
  default: byteLevel(true),
  "gpt-2": byteLevel(true),
  smollm: { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, byteLevel(true)] },
  "llama-bpe": {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: llama3Pattern }, behavior: "Isolated", invert: false },
      byteLevel(false),
    ],
  },
};

/** @throws E_BAD_MODEL for an unsupported tokenizer, naming it, and for tables that do not fit together. */
export function ggufTokenizerSource(header: GgufHeader): TokenizerSource {
  const { file, metadata } = header;
  const model = metadata.get("tokenizer.ggml.model");
  const tokens = strings(metadata.get("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens", file);
  const types = numbers(metadata.get("tokenizer.ggml.token_type"), tokens.length, "tokenizer.ggml.token_type", file);
  const vocab = vocabulary(tokens);
  const addedTokens = tokens.flatMap((content, id): JsonObject[] =>
    types[id] === tokenType.control || types[id] === tokenType.userDefined || types[id] === tokenType.unknown
      ? [
          {
            id,
            content,
            special: types[id] !== tokenType.userDefined,
            lstrip: false,
            rstrip: false,
            normalized: false,
            single_word: false,
          },
        ]
      : [],
  );
  const bosToken = tokenId(metadata.get("tokenizer.ggml.bos_token_id"), tokens.length);
  const eosTokens = new Set<number>();
  for (const key of ["eos_token_id", "eot_token_id", "eom_token_id"]) {
    const id = tokenId(metadata.get(`tokenizer.ggml.${key}`), tokens.length);
    if (id !== undefined) eosTokens.add(id);
  }
  for (const content of endOfTurn)
    if (types[vocab[content] ?? -1] === tokenType.control) eosTokens.add(vocab[content]!);

  let tokenizerJson: JsonObject;
  if (model === "gpt2") tokenizerJson = byteLevelBpe(header, vocab);
  else if (model === "llama") tokenizerJson = sentencePieceBpe(header, tokens, types, vocab);
  else
    throw badModel(file, `has the tokenizer ${JSON.stringify(model)?.slice(0, 60)}; supported are "gpt2" and "llama"`);
  return {
    file,
    tokenizerJson: { ...tokenizerJson, added_tokens: addedTokens, post_processor: null },
    eosTokens: [...eosTokens],
    bosToken,
    addBosToken: bosToken !== undefined && (metadata.get("tokenizer.ggml.add_bos_token") ?? model === "llama") === true,
  };
}

function byteLevelBpe({ file, metadata }: GgufHeader, vocab: Record<string, number>): JsonObject {
  const pre = metadata.get("tokenizer.ggml.pre") ?? "default";
  const preTokenizer = typeof pre === "string" && Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre]! : undefined;
  if (!preTokenizer) {
    const known = Object.keys(preTokenizers).join(", ");
    throw badModel(file, `has the pre-tokenizer ${JSON.stringify(pre)?.slice(0, 60)}; supported are ${known}`);
  }
  const merges = strings(metadata.get("tokenizer.ggml.merges"), "tokenizer.ggml.merges", file).map((merge) => {
    const pair = merge.split(" ");
    if (pair.length !== 2)
      throw badModel(file, `has the merge ${JSON.stringify(merge.slice(0, 60))}, which is no pair`);
    return pair;
  });
  return {
    normalizer: null,
    pre_tokenizer: preTokenizer,
    model: { type: "BPE", vocab, merges, ignore_merges: pre === "llama-bpe", byte_fallback: false },
    decoder: byteLevel(true),
  };
}

/**
 * SentencePiece's BPE keeps scores, not merges: it joins the neighbours whose joined piece scores highest. The list of
 * merges that does the same has every way to cut each piece into two pieces, ordered by the piece's score (as the
 * converter of Hugging Face transformers does it).
 */
function sentencePieceBpe(
  { file, metadata }: GgufHeader,
  tokens: string[],
  types: number[],
  vocab: Record<string, number>,
): JsonObject {
  const scores = numbers(metadata.get("tokenizer.ggml.scores"), tokens.length, "tokenizer.ggml.scores", file);
  const isPiece = (id: number | undefined) => id !== undefined && types[id] === tokenType.normal;
  const merges: { pair: [string, string]; score: number; left: number; right: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    if (!isPiece(id)) continue;
    const characters = Array.from(token);
    if (characters.length > 256)
      throw badModel(file, `has a token of ${characters.length} characters; at most 256 are read`);
    for (let cut = 1; cut < characters.length; cut++) {
      const pair: [string, string] = [characters.slice(0, cut).join(""), characters.slice(cut).join("")];
      const [left, right] = [vocab[pair[0]], vocab[pair[1]]];
      if (isPiece(left) && isPiece(right)) merges.push({ pair, score: scores[id]!, left: left!, right: right! });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right);
  const addsPrefixSpace = metadata.get("tokenizer.ggml.add_space_prefix") !== false;
  const unknown =
    tokenId(metadata.get("tokenizer.ggml.unknown_token_id"), tokens.length) ?? types.indexOf(tokenType.unknown);
  const replaceSpaces: JsonObject = { type: "Replace", pattern: { String: " " }, content: "▁" };
  return {
    normalizer: {
      type: "Sequence",
      normalizers: addsPrefixSpace ? [{ type: "Prepend", prepend: "▁" }, replaceSpaces] : [replaceSpaces],
    },
    pre_tokenizer: null,
    model: {
      type: "BPE",
      vocab,
      merges: merges.map(({ pair }) => pair),
      unk_token: tokens[unknown] ?? null,
      fuse_unk: true,
      byte_fallback: true,
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(addsPrefixSpace ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
  };
}

/** Without a prototype: a token may be called `__proto__`. The first of equal tokens wins. */
function vocabulary(tokens: readonly string[]): Record<string, number> {
  const vocab: Record<string, number> = Object.create(null);
  for (const [id, token] of tokens.entries()) vocab[token] ??= id;
  return vocab;
}

function strings(value: GgufValue | undefined, key: string, file: string): string[] {
  if (!Array.isArray(value) || value.length === 0 || !value.every((item) => typeof item === "string")) {
    throw badModel(file, `has no list of strings ${key} in its metadata`);
  }
  return value as string[];
}

function numbers(value: GgufValue | undefined, length: number, key: string, file: string): number[] {
  if (!Array.isArray(value) || value.length !== length || !value.every((item) => typeof item === "number")) {
    throw badModel(file, `has no list of ${length} numbers ${key} in its metadata, one for each token`);
  }
  return value as number[];
}

function tokenId(value: GgufValue | undefined, numTokens: number): number | undefined {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < numTokens ? value : undefined;
}
