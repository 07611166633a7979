/** Checks of what callers pass. Every refusal names the option, the value and what is valid. */
import { checkConstraint } from "./constraint.js";
import { checkSpeculation, type LoadedSources } from "./draft-source.js";
import type { DecodeOptions, EngineOptions } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import type { AttentionPolicy, NativeSampling } from "./native-addon.js";

/** All attention policies, the default first. */
export const attentionPolicies: readonly AttentionPolicy[] = [
  "deft-flatten",
  "deft-node",
  "deft-node-chunk",
  "flash-decoding",
  "radix",
  "medusa",
];

const choices = {
  device: ["auto", "cpu", "cuda"],
  weights: ["auto", "f32", "bf16", "int8"],
  kvType: ["auto", "f32", "f16", "bf16"],
  attention: attentionPolicies,
} as const satisfies Partial<Record<keyof EngineOptions, readonly string[]>>;

const integerRanges = {
  kvTokens: [1, 2 ** 31 - 1],
  pageSize: [1, 256],
  contextLength: [1, 2 ** 24],
  threads: [1, 1024],
  maxStepTokens: [1, 2 ** 16],
  deviceIndex: [0, 1023],
} as const satisfies Partial<Record<keyof EngineOptions, readonly [number, number]>>;

/** @throws E_BAD_ARGUMENT */
export function checkEngineOptions(options: EngineOptions): void {
  checkNames("option of Engine.load", options, [
    ...Object.keys(choices),
    ...Object.keys(integerRanges),
    "speculation",
    "profile",
    "signal",
  ]);
  for (const [name, valid] of Object.entries(choices)) checkChoice(name, options[name as keyof EngineOptions], valid);
  for (const [name, [low, high]] of Object.entries(integerRanges)) {
    checkInteger(name, options[name as keyof EngineOptions], low, high);
  }
  if (options.profile !== undefined && typeof options.profile !== "boolean") {
    throw badArgument(`profile must be true or false; got ${String(options.profile)}`);
  }
  checkSpeculation(options.speculation);
  checkSignal(options.signal);
}

/** @throws E_BAD_ARGUMENT */
export function checkAttentionPolicy(policy: AttentionPolicy): void {
  checkChoice("attention", policy, attentionPolicies);
}

const samplingNames = ["temperature", "topK", "topP", "minP", "repetitionPenalty", "logitBias", "seed"];
const decodeNames = [
  ...samplingNames,
  "maxTokens",
  "stop",
  "stopTokens",
  "logprobs",
  "speculation",
  "constraint",
  "signal",
];
const maxLogprobs = 100;
const maxStops = 64;

/** @throws E_BAD_ARGUMENT */
export function checkDecodeOptions(options: DecodeOptions, vocabSize: number, loaded: LoadedSources): void {
  checkNames("option of decode", options, decodeNames);
  checkInteger("maxTokens", options.maxTokens, 1, 2 ** 31 - 1);
  checkInteger("logprobs", options.logprobs, 0, maxLogprobs);
  checkInteger("seed", options.seed, 0, Number.MAX_SAFE_INTEGER);
  checkInteger("topK", options.topK, 0, 2 ** 31 - 1);
  checkNumber("temperature", options.temperature, 0, 1000);
  checkNumber("topP", options.topP, 0, 1);
  checkNumber("minP", options.minP, 0, 1);
  checkNumber("repetitionPenalty", options.repetitionPenalty, 1e-3, 1000);
  checkSpeculation(options.speculation, loaded);
  if (options.constraint !== undefined) checkConstraint(options.constraint);
  checkSignal(options.signal);
  const stop = options.stop ?? [];
  if (
    !Array.isArray(stop) ||
    stop.length > maxStops ||
    !stop.every((text) => typeof text === "string" && text !== "")
  ) {
    throw badArgument(`stop must be a list of at most ${maxStops} strings, none empty`);
  }
  if (options.stopTokens !== undefined) checkTokens(options.stopTokens, vocabSize);
  for (const [token, bias] of Object.entries(options.logitBias ?? {})) {
    checkTokens([Number(token)], vocabSize);
    checkNumber(`logitBias[${token}]`, bias, -1000, 1000);
  }
}

/** The native side's sampling parameters. */
export function nativeSampling(options: DecodeOptions): NativeSampling {
  const { temperature, topK, topP, minP, repetitionPenalty, seed, logprobs, logitBias } = options;
  const sampling: NativeSampling = { temperature, topK, topP, minP, repetitionPenalty, seed, logprobs };
  if (logitBias) sampling.logitBias = Object.entries(logitBias).map(([token, bias]) => [Number(token), bias]);
  return Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== undefined));
}

/** @throws E_BAD_ARGUMENT that names the first token outside of the vocabulary. */
export function checkTokens(tokens: readonly number[], vocabSize: number): void {
  const at = tokens.findIndex((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize);
  if (at >= 0) {
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      `Token ${tokens[at]} at index ${at} is not in the vocabulary of ${vocabSize} tokens`,
      {
        figures: { token: Number(tokens[at]), index: at, vocabSize },
      },
    );
  }
}

function checkNames(what: string, options: object, valid: readonly string[]): void {
  const unknown = Object.keys(options).find((name) => !valid.includes(name));
  if (unknown !== undefined) throw badArgument(`"${unknown}" is no ${what}; valid are ${valid.join(", ")}`);
}

function checkChoice(name: string, value: unknown, valid: readonly string[]): void {
  if (value !== undefined && !valid.includes(value as string)) {
    throw badArgument(`${name} ${JSON.stringify(value)} is unknown; valid are ${valid.join(", ")}`);
  }
}

function checkInteger(name: string, value: unknown, low: number, high: number): void {
  if (value !== undefined && !(Number.isInteger(value) && (value as number) >= low && (value as number) <= high)) {
    throw badArgument(`${name} must be an integer from ${low} to ${high}; got ${String(value)}`);
  }
}

function checkNumber(name: string, value: unknown, low: number, high: number): void {
  if (value !== undefined && !(typeof value === "number" && value >= low && value <= high)) {
    throw badArgument(`${name} must be a number from ${low} to ${high}; got ${String(value)}`);
  }
}

function checkSignal(signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw badArgument("signal must be an AbortSignal");
}

function badArgument(message: string): DeftreeError {
  return new DeftreeError("E_BAD_ARGUMENT", message);
}
