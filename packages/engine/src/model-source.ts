/** What a user may name a model by -> its files. */
import { readdir, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { badModel } from "./bad-model.js";
import { DeftreeError } from "./errors.js";
import { readGgufModel } from "./gguf-model.js";
import { readHfFolder } from "./hf-folder.js";
import { findHubSnapshot, hubCacheFolder, isHubModelId } from "./hub-cache.js";
import type { ModelFiles } from "./model-files.js";
import { isRandomModel, randomModel } from "./random-model.js";

const require = createRequire(import.meta.url);

/**
 * Reads the headers of a model.
 * @param source `"mini"` (the embedded model), a folder in Hugging Face's format, a `.gguf` file, `"org/name"` from the
 *   hub cache, or `"random:SHAPE"` (see {@link randomModel}). `"./mini"` is a folder.
 * @throws E_MODEL_NOT_FOUND that says where it looked and how to get the model; E_BAD_MODEL for a file that is wrong.
 */
export async function resolveModel(source: string): Promise<ModelFiles> {
  if (typeof source !== "string" || source === "" || source.includes("\0")) {
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      'A model is named by a string: "mini", a folder, a .gguf file or "org/name"',
    );
  }
  if (source === "mini") return readMini();
  if (isRandomModel(source)) return randomModel(source);
  const info = await stat(source).catch(() => undefined);
  if (info?.isDirectory()) return readFolder(source);
  if (info) {
    if (source.toLowerCase().endsWith(".gguf")) return readGgufModel(source);
    throw badModel(source, "is neither a folder nor a .gguf file");
  }
  if (isHubModelId(source)) {
    const snapshot = await findHubSnapshot(source);
    if (snapshot) return readFolder(snapshot, source);
    throw new DeftreeError(
      "E_MODEL_NOT_FOUND",
      `${source} is neither a path here nor in the hub cache ${hubCacheFolder()} (HF_HUB_CACHE and HF_HOME move it). ` +
        `Get it with \`hf download ${source}\`, or name a folder or a .gguf file.`,
    );
  }
  throw new DeftreeError(
    "E_MODEL_NOT_FOUND",
    `${path.resolve(source)} does not exist. Name "mini", a folder with config.json, a .gguf file, or "org/name" from the hub cache.`,
  );
}

async function readFolder(folder: string, name?: string): Promise<ModelFiles> {
  const entries = await readdir(folder);
  if (entries.includes("config.json")) return readHfFolder(folder, name);
  const ggufFiles = entries.filter((entry) => entry.toLowerCase().endsWith(".gguf")).sort();
  if (ggufFiles.length === 1) return readGgufModel(path.join(folder, ggufFiles[0]!));
  const found =
    ggufFiles.length === 0
      ? "no .gguf file"
      : `${ggufFiles.length} .gguf files (name one: ${ggufFiles.slice(0, 8).join(", ")})`;
  throw new DeftreeError("E_MODEL_NOT_FOUND", `${folder} has no config.json and ${found}`);
}

async function readMini(): Promise<ModelFiles> {
  let folder: string;
  try {
    folder = path.join(path.dirname(require.resolve("@deftree/model-mini/package.json")), "model");
  } catch (cause) {
    const problem = 'The model "mini" is in the package @deftree/model-mini, which is not installed';
    throw new DeftreeError("E_MODEL_NOT_FOUND", problem, { cause });
  }
  return readHfFolder(folder, "mini");
}
