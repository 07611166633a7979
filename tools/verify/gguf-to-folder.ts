/**
 * `gguf-to-folder FILE.gguf FOLDER`: the model with its weights dequantised to float32, as a Hugging Face folder, for what
 * reads no quantised weights: a GPU backend, and transformers.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { loadAddon } from "../../packages/engine/src/addon-loader.js";
import { readRange } from "../../packages/engine/src/file-reader.js";
import { readGgufModel } from "../../packages/engine/src/gguf-model.js";
import { hfConfig, safetensorsFile } from "../../packages/engine/test/tiny-model.js";

const [file, folder] = process.argv.slice(2);
if (!file || !folder) throw new Error("usage: gguf-to-folder FILE.gguf FOLDER");
const { config, tensors, tokenizer } = await readGgufModel(file);
const tensorData = await Promise.all(
  tensors.map(async ({ name, dtype, shape, offset, bytes }) => {
    const values = loadAddon().dequantize(dtype, await readRange(file, offset, bytes));
    const numHeads = name.endsWith("q_proj.weight") ? config.numQoHeads : config.numKvHeads;
    const data = /[qk]_proj\.weight$/.test(name) ? unpermuted(values, numHeads, config.headDim) : values;
    return { name, dtype: "F32", shape, data: new Uint8Array(data.buffer) };
  }),
);
mkdirSync(folder, { recursive: true });
writeFileSync(path.join(folder, "config.json"), JSON.stringify(hfConfig(config)));
writeFileSync(path.join(folder, "tokenizer.json"), JSON.stringify(tokenizer?.tokenizerJson));
writeFileSync(path.join(folder, "model.safetensors"), safetensorsFile(tensorData));

/** GGUF keeps the two halves of each head's rows interleaved, for a rotation of neighbours; Hugging Face has them apart. */
function unpermuted(values: Float32Array, numHeads: number, headDim: number): Float32Array {
  const rowLen = values.length / (numHeads * headDim);
  const result = new Float32Array(values.length);
  for (let row = 0; row < numHeads * headDim; row++) {
    const inHead = row % headDim;
    const source = row - inHead + 2 * (inHead % (headDim / 2)) + Math.floor(inHead / (headDim / 2));
    result.set(values.subarray(source * rowLen, (source + 1) * rowLen), row * rowLen);
  }
  return result;
}
