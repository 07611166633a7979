/** A Hugging Face model folder: config.json, tokenizer.json, safetensors in one file or in shards with an index. */
import { access } from "node:fs/promises";
import path from "node:path";
import { badModel } from "./bad-model.js";
import { DeftreeError } from "./errors.js";
import { readWholeFile } from "./file-reader.js";
import { parseHfConfig } from "./hf-config.js";
import type { ModelFiles, TokenizerSource } from "./model-files.js";
import type { NativeTensor } from "./native-addon.js";
import { readSafetensorsHeader } from "./safetensors.js";
import { isJsonObject, type JsonObject, type JsonValue, readJsonObject } from "./strict-json.js";
import { selectTensors } from "./tensor-table.js";

const maxConfigBytes = 1 << 20;
const maxIndexBytes = 64 << 20;
const maxTokenizerBytes = 128 << 20;
const maxShards = 1000;

/**
 * Reads everything but the weights, of which only the headers.
 * @throws E_MODEL_NOT_FOUND for a missing file, E_BAD_MODEL for a wrong one.
 */
export async function readHfFolder(folder: string, name = path.basename(path.resolve(folder))): Promise<ModelFiles> {
  const configFile = path.join(folder, "config.json");
  const configJson = await readJsonObject(configFile, maxConfigBytes);
  const config = parseHfConfig(configJson, configFile);
  const files = await weightFiles(folder);
  const available: NativeTensor[] = [];
  for (const [file, fileName] of files.entries()) {
    for (const tensor of await readSafetensorsHeader(fileName)) available.push({ ...tensor, file });
  }
  checkNoTensorTwice(available, files);
  const tokenizerConfig = await readOptionalJson(path.join(folder, "tokenizer_config.json"), maxIndexBytes);
  return {
    path: path.resolve(folder),
    name,
    config,
    files,
    tensors: selectTensors(config, available, files.length === 1 ? files[0]! : folder),
    tokenizer: await readTokenizerSource(folder, configJson, tokenizerConfig),
    chatTemplate: await readChatTemplate(folder, tokenizerConfig),
  };
}

async function weightFiles(folder: string): Promise<string[]> {
  const single = path.join(folder, "model.safetensors");
  if (await exists(single)) return [single];
  const indexFile = path.join(folder, "model.safetensors.index.json");
  if (!(await exists(indexFile))) {
    throw new DeftreeError(
      "E_MODEL_NOT_FOUND",
      `${folder} has neither model.safetensors nor model.safetensors.index.json; other weight formats (pytorch_model.bin) are not read`,
    );
  }
  const index = await readJsonObject(indexFile, maxIndexBytes);
  if (!isJsonObject(index.weight_map)) throw badModel(indexFile, "has no weight_map");
  const shards = new Set<string>();
  for (const shard of Object.values(index.weight_map)) {
    if (typeof shard !== "string" || !isPlainFileName(shard)) {
      throw badModel(indexFile, `names the shard ${JSON.stringify(shard)?.slice(0, 200)}, which is no plain file name`);
    }
    shards.add(shard);
  }
  if (shards.size === 0 || shards.size > maxShards) {
    throw badModel(indexFile, `names ${shards.size} shards; expected 1 to ${maxShards}`);
  }
  const files = [...shards].sort().map((shard) => path.join(folder, shard));
  for (const file of files) {
    if (!(await exists(file))) {
      throw new DeftreeError("E_MODEL_NOT_FOUND", `${file} is missing; ${indexFile} lists it. Fetch the model again.`);
    }
  }
  return files;
}

/** No separators, no drive, no hidden file: the name stays within the folder. */
function isPlainFileName(name: string): boolean {
  return name.length <= 255 && /^[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors$/.test(name);
}

function checkNoTensorTwice(tensors: readonly NativeTensor[], files: readonly string[]): void {
  const seen = new Map<string, number>();
  for (const { name, file } of tensors) {
    const first = seen.get(name);
    if (first !== undefined)
      throw badModel(files[file]!, `holds ${name.slice(0, 200)}, which ${files[first]} holds too`);
    seen.set(name, file);
  }
}

async function readTokenizerSource(
  folder: string,
  config: JsonObject,
  tokenizerConfig: JsonObject,
): Promise<TokenizerSource> {
  const file = path.join(folder, "tokenizer.json");
  const tokenizerJson = await readJsonObject(file, maxTokenizerBytes);
  const generation = await readOptionalJson(path.join(folder, "generation_config.json"), maxConfigBytes);
  const named = (key: string) => namedToken(tokenizerJson, tokenizerConfig[key]);
  const fromConfig = tokenIds(generation.eos_token_id ?? config.eos_token_id);
  const eosToken = named("eos_token");
  const bosToken = named("bos_token") ?? tokenIds(config.bos_token_id)[0];
  const usesBos =
    tokenizerConfig.bos_token !== null && (tokenizerConfig.bos_token !== undefined || bosToken !== undefined);
  return {
    file,
    tokenizerJson,
    eosTokens: [...new Set(eosToken === undefined ? fromConfig : [...fromConfig, eosToken])],
    bosToken: usesBos ? bosToken : undefined,
    addBosToken:
      usesBos && (tokenizerConfig.add_bos_token === true || startsWithSpecialToken(tokenizerJson.post_processor)),
  };
}

function tokenIds(value: JsonValue | undefined): number[] {
  const list = Array.isArray(value) ? value : [value];
  return list.filter((item): item is number => typeof item === "number" && Number.isInteger(item) && item >= 0);
}

/** tokenizer_config.json names a token as a string or as `{ content }`. */
function namedToken(tokenizerJson: JsonObject, token: JsonValue | undefined): number | undefined {
  const content = isJsonObject(token) ? token.content : token;
  if (typeof content !== "string") return undefined;
  const added = Array.isArray(tokenizerJson.added_tokens) ? tokenizerJson.added_tokens : [];
  const entry = added.find((item) => isJsonObject(item) && item.content === content);
  if (isJsonObject(entry) && typeof entry.id === "number") return entry.id;
  const vocab = isJsonObject(tokenizerJson.model) ? tokenizerJson.model.vocab : undefined;
  const id = isJsonObject(vocab) && Object.hasOwn(vocab, content) ? vocab[content] : undefined;
  return typeof id === "number" ? id : undefined;
}

function startsWithSpecialToken(processor: JsonValue | undefined): boolean {
  if (!isJsonObject(processor)) return false;
  if (processor.type === "Sequence" && Array.isArray(processor.processors))
    return processor.processors.some(startsWithSpecialToken);
  if (processor.type !== "TemplateProcessing" || !Array.isArray(processor.single)) return false;
  return isJsonObject(processor.single[0]) && isJsonObject(processor.single[0].SpecialToken);
}

/** tokenizer_config.json holds one template, or a list of named ones; newer folders have it in a file of its own. */
async function readChatTemplate(folder: string, tokenizerConfig: JsonObject): Promise<string | undefined> {
  const file = path.join(folder, "chat_template.jinja");
  if (await exists(file)) return (await readWholeFile(file, maxConfigBytes)).toString("utf8");
  const template = tokenizerConfig.chat_template;
  if (typeof template === "string") return template;
  const named = Array.isArray(template)
    ? template.find((item) => isJsonObject(item) && item.name === "default")
    : undefined;
  return isJsonObject(named) && typeof named.template === "string" ? named.template : undefined;
}

async function readOptionalJson(file: string, maxBytes: number): Promise<JsonObject> {
  return (await exists(file)) ? readJsonObject(file, maxBytes) : {};
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
