/** Medusa heads in a folder, as their checkpoints are published: config.json and one safetensors file. */
import { readdir } from "node:fs/promises";
import path from "node:path";
import { badModel } from "./bad-model.js";
import { DeftreeError } from "./errors.js";
import type { NativeLlamaConfig, NativeMedusa } from "./native-addon.js";
import { readSafetensorsHeader } from "./safetensors.js";
import { readJsonObject } from "./strict-json.js";

const maxConfigBytes = 1 << 20;
const maxHeads = 64;

/**
 * Head h has `medusa_num_layers` blocks "h.i.linear.weight" and "h.i.linear.bias", then its lm_head "h.<layers>.weight".
 * @throws E_MODEL_NOT_FOUND without a folder of that kind; E_BAD_MODEL, with figures, for heads that are missing or that are
 *   not of this model's shape.
 */
export async function readMedusaHeads(folder: string, model: NativeLlamaConfig): Promise<NativeMedusa> {
  const configFile = path.join(folder, "config.json");
  const config = await readJsonObject(configFile, maxConfigBytes);
  const count = (name: string, least: number) => {
    const value = config[name];
    if (Number.isInteger(value) && (value as number) >= least && (value as number) <= maxHeads) return value as number;
    throw badModel(
      configFile,
      `has ${name} ${JSON.stringify(value)}; it must be an integer from ${least} to ${maxHeads}`,
    );
  };
  const numHeads = count("medusa_num_heads", 1);
  const numBlocks = count("medusa_num_layers", 0);
  const file = await onlySafetensors(folder);
  const tensors = (await readSafetensorsHeader(file)).map((tensor) => ({ ...tensor, file: 0 }));
  for (const [name, shape] of expectedTensors(numHeads, numBlocks, model)) {
    const tensor = tensors.find((each) => each.name === name);
    if (!tensor) {
      throw badModel(file, `has no tensor "${name}"; ${numHeads} heads of ${numBlocks} layers were expected`, {
        figures: { numHeads, numBlocks },
      });
    }
    if (String(tensor.shape) !== String(shape)) {
      throw badModel(file, `: tensor "${name}" is [${tensor.shape}]; heads of this model have [${shape}]`, {
        figures: { hiddenSize: model.hiddenSize, vocabSize: model.vocabSize },
      });
    }
  }
  return { numHeads, numBlocks, files: [file], tensors };
}

function expectedTensors(
  numHeads: number,
  numBlocks: number,
  { hiddenSize, vocabSize }: NativeLlamaConfig,
): [name: string, shape: number[]][] {
  const indices = (length: number) => Array.from({ length }, (_, i) => i);
  return indices(numHeads).flatMap((head): [string, number[]][] => [
    ...indices(numBlocks).flatMap((block): [string, number[]][] => [
      [`${head}.${block}.linear.weight`, [hiddenSize, hiddenSize]],
      [`${head}.${block}.linear.bias`, [hiddenSize]],
    ]),
    [`${head}.${numBlocks}.weight`, [vocabSize, hiddenSize]],
  ]);
}

async function onlySafetensors(folder: string): Promise<string> {
  const files = (await readdir(folder)).filter((name) => name.endsWith(".safetensors"));
  if (files.length === 1) return path.join(folder, files[0]!);
  throw new DeftreeError(
    "E_MODEL_NOT_FOUND",
    `${folder} has ${files.length} safetensors files; Medusa heads are one (convert a .pt file with safetensors' save_file)`,
  );
}
