import type { EngineOptions } from "@deftree/engine";
import { type Command, InvalidArgumentError, Option } from "commander";

/** Options of every command that loads a model. */
export interface ModelFlags {
  model: string;
  device?: EngineOptions["device"];
  weights?: EngineOptions["weights"];
  kv?: EngineOptions["kvType"];
  kvTokens?: number;
  threads?: number;
  attention?: EngineOptions["attention"];
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
      'embedded model "mini", a Hugging Face folder, a .gguf file, or org/name from the hub cache',
      "mini",
    )
    .addOption(new Option("--device <device>", "where to compute").choices(["auto", "cpu", "cuda"]))
    .addOption(
      new Option("--weights <format>", "how weights are kept in memory").choices(["auto", "f32", "bf16", "int8"]),
    )
    .addOption(new Option("--kv <type>", "KV element type").choices(["auto", "f32", "f16", "bf16"]))
    .option("--kv-tokens <n>", "tokens that the KV pages hold together", integer(1))
    .option("--threads <n>", "compute threads", integer(1))
    .addOption(
      new Option("--attention <policy>", "attention policy").choices([
        "deft-flatten",
        "deft-node",
        "deft-node-chunk",
        "flash-decoding",
        "radix",
        "medusa",
      ]),
    )
    .option("--json", "print one JSON line instead of text", false);
}

export function engineOptions(flags: ModelFlags): EngineOptions {
  return {
    device: flags.device,
    weights: flags.weights,
    kvType: flags.kv,
    kvTokens: flags.kvTokens,
    threads: flags.threads,
    attention: flags.attention,
  };
}
