/** The bytes each token stands for, from a tokenizer.json. Text is decoded from bytes: one token may hold part of a character. */
import { badModel } from "./bad-model.js";
import { isJsonObject, type JsonObject, type JsonValue } from "./strict-json.js";

export interface TokenByteTable {
  bytes: Uint8Array;
  /** [vocabSize + 1]: token i is `bytes[offsets[i] .. offsets[i + 1])`. */
  offsets: Uint32Array;
}

/**
 * Special tokens are empty, so are ids without a token (padded embeddings).
 * @throws E_BAD_MODEL for a decoder other than byte-level BPE's and SentencePiece's, or ids outside of the vocabulary.
 */
export function byteStrings(
  tokenizerJson: JsonObject,
  added: readonly { id: number; content: string; special: boolean }[],
  vocabSize: number,
  file: string,
): TokenByteTable {
  const toBytes = tokenDecoder(tokenizerJson, file);
  const strings = new Array<Uint8Array | undefined>(vocabSize).fill(undefined);
  const put = (id: number, bytes: Uint8Array) => {
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw badModel(file, `has a token with id ${id}; the model has ${vocabSize} tokens`, {
        figures: { id, vocabSize },
      });
    }
    strings[id] = bytes;
  };
  for (const [token, id] of vocabularyEntries(tokenizerJson, file)) put(id, toBytes(token));
  for (const { id, content, special } of added) put(id, special ? new Uint8Array(0) : Buffer.from(content, "utf8"));
  const offsets = new Uint32Array(vocabSize + 1);
  for (const [id, bytes] of strings.entries()) offsets[id + 1] = offsets[id]! + (bytes?.length ?? 0);
  const bytes = new Uint8Array(offsets[vocabSize]!);
  for (const [id, string] of strings.entries()) if (string) bytes.set(string, offsets[id]);
  return { bytes, offsets };
}

/** Whether text is encoded with a space put before it (Llama 2), which decoding takes away again. */
export function addsPrefixSpace(tokenizerJson: JsonObject): boolean {
  const prepends = parts(tokenizerJson.normalizer, "normalizers").some(({ type }) => type === "Prepend");
  const metaspace = parts(tokenizerJson.pre_tokenizer, "pretokenizers").find(({ type }) => type === "Metaspace");
  return (
    prepends ||
    (metaspace !== undefined && metaspace.prepend_scheme !== "never" && metaspace.add_prefix_space !== false)
  );
}

function vocabularyEntries(tokenizerJson: JsonObject, file: string): [token: string, id: number][] {
  const model = tokenizerJson.model;
  if (!isJsonObject(model) || !isJsonObject(model.vocab))
    throw badModel(file, "has no model.vocab; byte-pair encoding is supported");
  return Object.entries(model.vocab).map(([token, id]) => {
    if (typeof id !== "number") throw badModel(file, `gives the token ${JSON.stringify(token.slice(0, 60))} no number`);
    return [token, id];
  });
}

function tokenDecoder(tokenizerJson: JsonObject, file: string): (token: string) => Uint8Array {
  const decoders = parts(tokenizerJson.decoder, "decoders");
  const types = new Set(decoders.map(({ type }) => type));
  if (types.has("ByteLevel")) return byteLevelBytes;
  if (types.has("ByteFallback") || types.has("Metaspace")) return sentencePieceBytes;
  throw badModel(
    file,
    `has the decoder ${[...types].join(" + ") || "none"}; supported are ByteLevel and SentencePiece's (ByteFallback)`,
  );
}

/** Members of a normalizer, pre-tokenizer or decoder: itself, or its list when it is a Sequence. */
function parts(value: JsonValue | undefined, listKey: string): JsonObject[] {
  if (!isJsonObject(value)) return [];
  const list = value.type === "Sequence" && Array.isArray(value[listKey]) ? value[listKey] : [value];
  return list.filter((item): item is JsonObject => isJsonObject(item));
}

/**
 * GPT-2's mapping: printable Latin-1 stands for itself, the other bytes for the characters from U+0100 on, in order.
 * Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), its encoder.
 */
const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const isPrintable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
  const map = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) map.set(String.fromCharCode(isPrintable(byte) ? byte : next++), byte);
  return map;
})();

function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = byteOfCharacter.get(character);
    if (byte === undefined) bytes.push(...Buffer.from(character, "utf8"));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

function sentencePieceBytes(token: string): Uint8Array {
  const fallback = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
  if (fallback) return Uint8Array.of(Number.parseInt(fallback[1]!, 16));
  return Buffer.from(token.replaceAll("▁", " "), "utf8");
}
