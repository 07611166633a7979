import { attentionPolicies, type EngineOptions } from "@deftree/engine";
import { type Command, InvalidArgumentError, Option } from "commander";

/** Options of every command that loads a model. */
export interface ModelFlags {
  model: string;
  device?: EngineOptions["device"];
  deviceIndex?: number;
  weights?: EngineOptions["weights"];
  kv?: EngineOptions["kvType"];
  kvTokens?: number;
  threads?: number;
  attention?: EngineOptions["attention"];
  speculation?: "auto" | "off";
  draftModel?: string;
  json: boolean;
}

export function integer(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < least)
      throw new InvalidArgumentError(`an integer of at least ${least} is wanted.`);
    return value;
  };
}

export function number(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isFinite(value) || value < least)
      throw new InvalidArgumentError(`a number of at least ${least} is wanted.`);
    return value;
  };
}

export function addModelOptions(command: Command): Command {
  return command
    .option(
      "-m, --model <model>",
      'embedded model "mini", a Hugging Face folder, a .gguf file, org/name from the hub cache, or random:llama-3-8b',
      "mini",
    )
    .addOption(new Option("--device <device>", "where to compute").choices(["auto", "cpu", "cuda"]))
    .option("--device-index <n>", "which GPU (default: the one with the most free memory)", integer(0))
    .addOption(
      new Option("--weights <format>", "how weights are kept in memory").choices(["auto", "f32", "bf16", "int8"]),
    )
    .addOption(new Option("--kv <type>", "KV element type").choices(["auto", "f32", "f16", "bf16"]))
    .option("--kv-tokens <n>", "tokens that the KV pages hold together", integer(1))
    .option("--threads <n>", "compute threads", integer(1))
    .addOption(new Option("--attention <policy>", "attention policy").choices(attentionPolicies))
    .addOption(
      new Option("--speculation <mode>", "auto: draft tokens ahead where it saves time (default: off)").choices([
        "auto",
        "off",
      ]),
    )
    .option("--draft-model <model>", "a smaller model with the same tokens that drafts, too; turns speculation on")
    .option("--json", "print one JSON line instead of text", false);
}

/** The list length at which mini's greedy answers are right for between 30% and 60% of problems (its model card). */
export const demoLength = 144;

/** Options of every command that searches on sorting problems. */
export interface SearchFlags {
  items: number;
  length: number;
  width: number;
  keep: number;
}

export function addSearchOptions(command: Command, defaults: { items: number }): Command {
  return command
    .option("--items <n>", "problems", integer(1), defaults.items)
    .option("--length <n>", "numbers per generated list", integer(1), demoLength)
    .option("--width <n>", "thoughts per level; with best-of-n answers", integer(1), 8)
    .option("--keep <n>", "thoughts kept per level, where they continue", integer(1), 3);
}

/** "4,8" -> [4, 8] */
export function integers(least: number): (text: string) => number[] {
  const one = integer(least);
  return (text) => text.split(",").map(one);
}

/** "0.5,2" -> [0.5, 2] */
export function numbers(least: number): (text: string) => number[] {
  const one = number(least);
  return (text) => text.split(",").map(one);
}

export function engineOptions(flags: ModelFlags): EngineOptions {
  return {
    device: flags.device,
    deviceIndex: flags.deviceIndex,
    weights: flags.weights,
    kvType: flags.kv,
    kvTokens: flags.kvTokens,
    threads: flags.threads,
    attention: flags.attention,
    speculation: speculation(flags),
  };
}

function speculation({ speculation: mode, draftModel }: ModelFlags): EngineOptions["speculation"] {
  if (draftModel === undefined || mode === "off") return mode;
  return { sources: ["suffix", "recycling", { kind: "model", model: draftModel }] };
}
