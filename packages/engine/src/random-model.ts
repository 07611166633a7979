/** Models with random weights: the shape of a real one with nothing to download, for benchmarks and tests. */
import type { TextTokenizer } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import { checkLlamaConfig } from "./llama-config.js";
import type { ModelFiles } from "./model-files.js";
import type { NativeLlamaConfig } from "./native-addon.js";
import type { TokenByteTable } from "./token-bytes.js";

const prefix = "random:";

const llama32Scaling = { factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalContextLen: 8192 };

/** Shapes by name, as the models' config.json files give them. */
const shapes: Record<string, NativeLlamaConfig> = {
  "llama-3-8b": {
    numLayers: 32,
    hiddenSize: 4096,
    intermediateSize: 14336,
    numQoHeads: 32,
    numKvHeads: 8,
    headDim: 128,
    vocabSize: 128256,
    contextLen: 8192,
    ropeTheta: 500_000,
    rmsNormEps: 1e-5,
    tieWordEmbeddings: false,
    qkPermuted: false,
  },
  "llama-3.2-1b": {
    numLayers: 16,
    hiddenSize: 2048,
    intermediateSize: 8192,
    numQoHeads: 32,
    numKvHeads: 8,
    headDim: 64,
    vocabSize: 128256,
    contextLen: 131072,
    ropeTheta: 500_000,
    rmsNormEps: 1e-5,
    tieWordEmbeddings: true,
    qkPermuted: false,
    ropeScaling: llama32Scaling,
  },
  tiny: {
    numLayers: 2,
    hiddenSize: 128,
    intermediateSize: 256,
    numQoHeads: 4,
    numKvHeads: 2,
    headDim: 64,
    vocabSize: 512,
    contextLen: 1024,
    ropeTheta: 10_000,
    rmsNormEps: 1e-5,
    tieWordEmbeddings: true,
    qkPermuted: false,
  },
};

const numbers: Record<string, keyof NativeLlamaConfig> = {
  layers: "numLayers",
  hidden: "hiddenSize",
  intermediate: "intermediateSize",
  heads: "numQoHeads",
  "kv-heads": "numKvHeads",
  "head-dim": "headDim",
  vocab: "vocabSize",
  context: "contextLen",
};

export function isRandomModel(source: string): boolean {
  return source.startsWith(prefix);
}

/**
 * @param source `random:SHAPE`, `random:SHAPE,layers=4,seed=7` or, over the shape "tiny", `random:layers=4,hidden=256`.
 *   Numbers: layers, hidden, intermediate, heads, kv-heads, head-dim, vocab, context, seed.
 * @throws E_BAD_ARGUMENT that says what is valid; E_BAD_MODEL for a shape that contradicts itself.
 */
export function randomModel(source: string): ModelFiles {
  const parts = source.slice(prefix.length).split(",");
  const named = parts[0]!.includes("=") ? undefined : parts.shift()!;
  const shape = shapes[named ?? "tiny"];
  if (!shape || !Object.hasOwn(shapes, named ?? "tiny")) {
    throw badSource(source, `has no shape "${named}"; there are ${Object.keys(shapes).join(", ")}`);
  }
  const config = { ...shape };
  let randomSeed = 1;
  for (const part of parts) {
    const [, name = "", text = ""] = /^([a-z-]+)=(\d+)$/.exec(part) ?? [];
    const value = Number(text);
    const field = Object.hasOwn(numbers, name) ? numbers[name] : undefined;
    if (name === "seed" && Number.isSafeInteger(value)) randomSeed = value;
    else if (field) Object.assign(config, { [field]: value });
    else {
      const valid = [...Object.keys(numbers), "seed"].join(", ");
      throw badSource(source, `has "${part}"; numbers are given as NAME=NUMBER by ${valid}`);
    }
  }
  return {
    path: source,
    name: source,
    config: checkLlamaConfig(config, source),
    files: [],
    tensors: [],
    randomSeed,
    tokenizer: undefined,
    chatTemplate: undefined,
  };
}

/** Stands for the tokenizer of a model that has none: token ids go in and out, each without a text of its own. */
export class TokenIdsOnly implements TextTokenizer {
  readonly vocabSize: number;
  readonly eosTokens: readonly number[] = [];
  readonly bosToken = undefined;
  readonly byteTable: TokenByteTable;

  constructor(vocabSize: number) {
    this.vocabSize = vocabSize;
    this.byteTable = { bytes: new Uint8Array(0), offsets: new Uint32Array(vocabSize + 1) };
  }

  /** @throws E_BAD_ARGUMENT */
  encode(): number[] {
    throw noText();
  }

  /** @throws E_BAD_ARGUMENT */
  encodeWithSpecialTokens(): number[] {
    throw noText();
  }

  /** @throws E_BAD_ARGUMENT */
  decode(): string {
    throw noText();
  }

  tokenBytes(): Uint8Array {
    return new Uint8Array(0);
  }
}

export function noText(): DeftreeError {
  return new DeftreeError(
    "E_BAD_ARGUMENT",
    "A model with random weights has no tokenizer: use token ids instead of text, and no stop strings or chats",
  );
}

function badSource(source: string, problem: string): DeftreeError {
  return new DeftreeError("E_BAD_ARGUMENT", `The model "${source}" ${problem}`);
}
