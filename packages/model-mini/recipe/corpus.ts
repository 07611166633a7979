/**
 * Writes what mini is trained and measured on, all from the generators of packages/tasks. Bundled to one file, it runs
 * wherever Node runs (see README.md):
 *
 *   node corpus.mjs text  --out prompts.txt --examples 2000 [--seed 1]            text for the tokenizer's training
 *   node corpus.mjs train --out DIR --tokenizer DIR --tokens 5e8 --shards 16    token ids for the model's training
 *   node corpus.mjs eval  --out eval.json --tokenizer DIR --problems 200          problems and right answers, as ids
 *
 * A shard is two files: `N.bin`, the documents' token ids one after the other (uint16), and `N.idx`, for each document
 * its length and the length of its prompt (2 x uint16). A document is a whole chat turn, prompt and answer.
 */
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { createRng, type Rng } from "@deftree/tasks";
import { Tokenizer } from "@huggingface/tokenizers";
import { type Example, type Mix, type SizeShares, weighted } from "./example.js";
import { RECIPES } from "./recipes.js";

const SPECIAL_TOKENS = /(<\|im_start\|>|<\|im_end\|>)/g;
/** As tokenizer.py splits text before it applies the merges; a token never spans two pieces. */
const PIECES = /, | ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]|\s+/gu;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string", default: "corpus" },
    tokenizer: { type: "string", default: "../model" },
    examples: { type: "string", default: "2000" },
    problems: { type: "string", default: "200" },
    tokens: { type: "string", default: "1e6" },
    shards: { type: "string", default: "2" },
    seed: { type: "string", default: "1" },
    "sorting-sizes": { type: "string", default: "985,13,2" },
    "set-sizes": { type: "string", default: "85,13,2" },
  },
});

const sizeShares = (text: string) => text.split(",").map(Number) as unknown as SizeShares;
const mix: Mix = {
  sorting: sizeShares(values["sorting-sizes"]),
  sets: sizeShares(values["set-sizes"]),
};

function drawExample(rng: Rng): Example {
  const recipe = weighted(
    rng,
    RECIPES.map((recipe) => [recipe.weight, recipe]),
  );
  return recipe.draw(rng, mix);
}

function renderPrompt({ prompt }: Example): string {
  const turns = prompt.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`);
  return `${turns.join("")}<|im_start|>assistant\n`;
}

/** Text to ids, each distinct piece encoded once: the tokenizer's own ids, many times faster. */
class FastEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #ids = new Map<string, readonly number[]>();

  constructor(folder: string) {
    const read = (name: string) => JSON.parse(readFileSync(join(folder, name), "utf8"));
    this.#tokenizer = new Tokenizer(read("tokenizer.json"), read("tokenizer_config.json"));
  }

  encode(text: string): number[] {
    const ids: number[] = [];
    for (const part of text.split(SPECIAL_TOKENS)) {
      const pieces = part.startsWith("<|im_") ? [part] : (part.match(PIECES) ?? []);
      for (const piece of pieces) ids.push(...this.#piece(piece));
    }
    return ids;
  }

  /** Throws where the pieces' ids are not those of the whole text. */
  check(text: string): void {
    const whole = this.#tokenizer.encode(text, { add_special_tokens: false }).ids;
    if (whole.join() !== this.encode(text).join()) throw new Error(`Pieces do not encode as the whole: ${text}`);
  }

  #piece(piece: string): readonly number[] {
    const known = this.#ids.get(piece);
    if (known) return known;
    const ids: readonly number[] = this.#tokenizer.encode(piece, { add_special_tokens: false }).ids;
    this.#ids.set(piece, ids);
    return ids;
  }
}

function encodeExample(encoder: FastEncoder, example: Example): { prompt: number[]; answer: number[] } {
  return { prompt: encoder.encode(renderPrompt(example)), answer: encoder.encode(`${example.answer}<|im_end|>`) };
}

function writeText(): void {
  const rng = createRng(Number(values.seed));
  const texts = Array.from({ length: Number(values.examples) }, () => {
    const example = drawExample(rng);
    return JSON.stringify(renderPrompt(example).replaceAll(SPECIAL_TOKENS, "") + example.answer);
  });
  writeFileSync(values.out, `${texts.join("\n")}\n`);
}

function writeShard(shard: number): void {
  const encoder = new FastEncoder(values.tokenizer);
  const rng = createRng(Number(values.seed) * 1_000_003 + shard);
  for (let i = 0; i < 50; i++) encoder.check(renderPrompt(drawExample(rng)));

  const wanted = Number(values.tokens) / Number(values.shards);
  const ids = openSync(join(values.out, `${shard}.bin`), "w");
  const index = openSync(join(values.out, `${shard}.idx`), "w");
  const buffer = new Uint16Array(1 << 20);
  let lengths: number[] = [];
  let filled = 0;
  const flush = () => {
    writeSync(ids, buffer.subarray(0, filled));
    writeSync(index, Uint16Array.from(lengths));
    filled = 0;
    lengths = [];
  };
  for (let written = 0; written < wanted; ) {
    const { prompt, answer } = encodeExample(encoder, drawExample(rng));
    const length = prompt.length + answer.length;
    if (filled + length > buffer.length) flush();
    buffer.set(prompt, filled);
    buffer.set(answer, filled + prompt.length);
    lengths.push(length, prompt.length);
    filled += length;
    written += length;
  }
  flush();
  closeSync(ids);
  closeSync(index);
}

function writeShards(): void {
  mkdirSync(values.out, { recursive: true });
  for (let shard = 0; shard < Number(values.shards); shard++) {
    new Worker(new URL(import.meta.url), { workerData: { shard }, argv: process.argv.slice(2) });
  }
}

/** Problems are of the generators' seeds 0, 1, 2...: those that `deftree run` solves. */
function writeEval(): void {
  const encoder = new FastEncoder(values.tokenizer);
  const sets = RECIPES.flatMap((recipe) => Object.entries(recipe.problems(Number(values.problems))));
  const encoded = sets.map(([name, examples]) => ({
    name,
    examples: examples.map((example) => encodeExample(encoder, example)),
  }));
  writeFileSync(values.out, JSON.stringify(encoded));
}

if (!isMainThread) writeShard(workerData.shard);
else if (positionals[0] === "text") writeText();
else if (positionals[0] === "train") writeShards();
else if (positionals[0] === "eval") writeEval();
else throw new Error("Usage: node corpus.mjs text|train|eval --out PATH ... (see the top of corpus.ts)");
