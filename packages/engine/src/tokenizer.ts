/**
 * Text <-> tokens over @huggingface/tokenizers, which normalises, pre-tokenises and merges. Added tokens are split off
 * here, not there: text of users must not be able to spell a special token, only text of templates may.
 */
import { Tokenizer } from "@huggingface/tokenizers";
import { badModel } from "./bad-model.js";
import type { TextTokenizer } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import type { TokenizerSource } from "./model-files.js";
import { isJsonObject, type JsonObject, type JsonValue } from "./strict-json.js";
import { addsPrefixSpace, byteStrings, type TokenByteTable } from "./token-bytes.js";

/** A piece of a prompt. Only `trusted` text (a template's own) may hold special tokens. */
export interface TextSegment {
  text: string;
  trusted: boolean;
}

export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  lstrip: boolean;
  rstrip: boolean;
}

export class ModelTokenizer implements TextTokenizer {
  readonly vocabSize: number;
  readonly eosTokens: readonly number[];
  readonly bosToken: number | undefined;
  readonly addBosToken: boolean;
  /** Byte string of every token, for the native side. */
  readonly byteTable: TokenByteTable;
  readonly #tokenizer: Tokenizer;
  readonly #addedTokens: ReadonlyMap<string, AddedToken>;
  readonly #contents: ReadonlyMap<number, string>;
  readonly #addedPattern: RegExp | undefined;
  readonly #prefixSpace: boolean;

  /** @param vocabSize rows of the model's embedding. @throws E_BAD_MODEL */
  constructor(source: TokenizerSource, vocabSize: number) {
    const { file, tokenizerJson } = source;
    const added = parseAddedTokens(tokenizerJson, file);
    try {
      const preTokenizer = withAllDigits(tokenizerJson.pre_tokenizer ?? null);
      this.#tokenizer = new Tokenizer(
        { ...tokenizerJson, pre_tokenizer: preTokenizer, added_tokens: [], post_processor: null },
        {},
      );
    } catch (cause) {
      throw badModel(file, `describes a tokenizer that cannot be built: ${(cause as Error).message}`, { cause });
    }
    this.vocabSize = vocabSize;
    this.#addedTokens = new Map(added.map((token) => [token.content, token]));
    this.#contents = new Map(added.map((token) => [token.id, token.content]));
    this.#addedPattern = longestMatchPattern([...this.#addedTokens.keys()]);
    this.byteTable = byteStrings(tokenizerJson, added, vocabSize, file);
    this.#prefixSpace = addsPrefixSpace(tokenizerJson);
    this.eosTokens = source.eosTokens;
    this.bosToken = source.bosToken;
    this.addBosToken = source.addBosToken;
    for (const token of [...this.eosTokens, ...(this.bosToken === undefined ? [] : [this.bosToken])]) {
      if (token >= vocabSize) throw badModel(file, `names the token ${token}; the model has ${vocabSize} tokens`);
    }
  }

  encode(text: string): number[] {
    return this.encodeSegments([{ text, trusted: false }]);
  }

  encodeWithSpecialTokens(text: string): number[] {
    return this.encodeSegments([{ text, trusted: true }]);
  }

  /**
   * Tokens of segments in a row. Text between two added tokens is merged as one piece, across segments, so the result is
   * what the whole string gives, except where untrusted text spells an added token.
   */
  encodeSegments(segments: readonly TextSegment[]): number[] {
    const pieces = this.#splitAddedTokens(segments);
    return pieces.flatMap((piece, index) => (typeof piece === "string" ? this.#encodePlain(piece, index) : [piece.id]));
  }

  decode(tokens: readonly number[]): string {
    const bytes = Buffer.concat(tokens.map((token) => this.tokenBytes(token)));
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    return this.#prefixSpace && text.startsWith(" ") ? text.slice(1) : text;
  }

  tokenBytes(token: number): Uint8Array {
    if (!Number.isInteger(token) || token < 0 || token >= this.vocabSize) {
      throw new DeftreeError("E_BAD_ARGUMENT", `Token ${token} is not in the vocabulary of ${this.vocabSize} tokens`, {
        figures: { token, vocabSize: this.vocabSize },
      });
    }
    const { bytes, offsets } = this.byteTable;
    return bytes.subarray(offsets[token], offsets[token + 1]);
  }

  /** The text a template writes for a special token, "" for none. */
  specialTokenText(token: number | undefined): string {
    return token === undefined ? "" : (this.#contents.get(token) ?? this.#tokenizer.id_to_token(token) ?? "");
  }

  /** How many added tokens a trusted text would hold. */
  countAddedTokens(text: string): number {
    return this.#addedPattern ? [...text.matchAll(this.#addedPattern)].length : 0;
  }

  #splitAddedTokens(segments: readonly TextSegment[]): (string | AddedToken)[] {
    const pieces: (string | AddedToken)[] = [];
    const appendText = (text: string) => {
      const last = pieces.at(-1);
      if (typeof last === "string") pieces[pieces.length - 1] = last + text;
      else pieces.push(last?.rstrip ? text.trimStart() : text);
    };
    for (const { text, trusted } of segments) {
      let done = 0;
      for (const match of trusted && this.#addedPattern ? text.matchAll(this.#addedPattern) : []) {
        const token = this.#addedTokens.get(match[0])!;
        if (match.index > done) appendText(text.slice(done, match.index));
        const before = pieces.at(-1);
        if (token.lstrip && typeof before === "string") pieces[pieces.length - 1] = before.trimEnd();
        pieces.push(token);
        done = match.index + match[0].length;
      }
      if (done < text.length) appendText(text.slice(done));
    }
    return pieces;
  }

  /** @param section index among the pieces; some tokenizers put a space before the first only. */
  #encodePlain(text: string, section: number): number[] {
    if (text === "") return [];
    const { normalizer, pre_tokenizer: preTokenizer, model } = this.#tokenizer;
    const normalized = normalizer ? normalizer.normalize(text) : text;
    if (normalized === "") return [];
    const words = preTokenizer ? preTokenizer.pre_tokenize(normalized, { section_index: section }) : [normalized];
    return model!.encode(words).map((token: string) => {
      const id = this.#tokenizer.token_to_id(token);
      if (id === undefined)
        throw new DeftreeError("E_BAD_ARGUMENT", `The tokenizer has no token for ${JSON.stringify(text.slice(0, 60))}`);
      return id;
    });
  }
}

function parseAddedTokens(tokenizerJson: JsonObject, file: string): AddedToken[] {
  const list = tokenizerJson.added_tokens ?? [];
  if (!Array.isArray(list) || list.length > 1_000_000) throw badModel(file, "has no list of added_tokens");
  return list.map((entry) => {
    const valid =
      isJsonObject(entry) && typeof entry.content === "string" && entry.content !== "" && Number.isInteger(entry.id);
    if (!valid || (entry.id as number) < 0)
      throw badModel(file, `has the added token ${JSON.stringify(entry)?.slice(0, 120)}`);
    return {
      id: entry.id as number,
      content: entry.content as string,
      special: entry.special === true,
      lstrip: entry.lstrip === true,
      rstrip: entry.rstrip === true,
    };
  });
}

/**
 * `Digits` of the Rust tokenizers splits at every numeric character (½, ², Ⅳ); that of @huggingface/tokenizers 0.2.0 at
 * ASCII digits only. Says the same as a Split, which both understand alike.
 */
function withAllDigits(preTokenizer: JsonValue): JsonValue {
  if (!isJsonObject(preTokenizer)) return preTokenizer;
  if (preTokenizer.type === "Sequence" && Array.isArray(preTokenizer.pretokenizers)) {
    return { ...preTokenizer, pretokenizers: preTokenizer.pretokenizers.map(withAllDigits) };
  }
  if (preTokenizer.type !== "Digits") return preTokenizer;
  const pattern = preTokenizer.individual_digits === true ? "\\p{N}" : "\\p{N}+";
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

function longestMatchPattern(contents: readonly string[]): RegExp | undefined {
  if (contents.length === 0) return undefined;
  const escaped = [...contents]
    .sort((a, b) => b.length - a.length)
    .map((text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(escaped.join("|"), "g");
}
