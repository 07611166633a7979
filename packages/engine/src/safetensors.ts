/**
 * The header of a safetensors file: 8 bytes little-endian length N, N bytes of JSON, then the data. Only the header is
 * read. Format: https://github.com/huggingface/safetensors
 */
import { badModel } from "./bad-model.js";
import { fileSize, readRange } from "./file-reader.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJsonObject } from "./strict-json.js";
import { safetensorsDtypes, tensorBytes } from "./tensor-dtype.js";

export interface SafetensorsTensor {
  name: string;
  dtype: string;
  /** Row-major. */
  shape: number[];
  /** From the start of the file. */
  offset: number;
  bytes: number;
}

const maxHeaderBytes = 100_000_000;
const maxTensors = 100_000;
const maxDims = 8;

/**
 * Reads and checks a header: its length against the file, no duplicate names, known dtypes, shape x dtype equal to each
 * range, and ranges that tile the data without holes or overlaps.
 * @throws E_BAD_MODEL with the file and the tensor.
 */
export async function readSafetensorsHeader(file: string): Promise<SafetensorsTensor[]> {
  const size = await fileSize(file);
  if (size < 8) throw badModel(file, `has ${size} bytes, too few for a safetensors file`);
  const length = (await readRange(file, 0, 8)).readBigUInt64LE();
  const limit = Math.min(maxHeaderBytes, size - 8);
  if (length > BigInt(limit)) {
    throw badModel(file, `says that its header has ${length} bytes; at most ${limit} are possible`, {
      figures: { headerBytes: Number(length), limit, fileBytes: size },
    });
  }
  const headerBytes = Number(length);
  const header = parseJsonObject((await readRange(file, 8, headerBytes)).toString("utf8"), file);
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  if (entries.length > maxTensors)
    throw badModel(file, `lists ${entries.length} tensors; at most ${maxTensors} are read`);
  const dataStart = 8 + headerBytes;
  const tensors = entries.map(([name, entry]) => parseEntry(file, name, entry, dataStart, size - dataStart));
  checkTiling(file, tensors, dataStart, size);
  return tensors;
}

function parseEntry(
  file: string,
  name: string,
  entry: JsonValue,
  dataStart: number,
  dataBytes: number,
): SafetensorsTensor {
  const fail = (problem: string) => badModel(file, `: tensor "${name.slice(0, 200)}" ${problem}`);
  if (!isJsonObject(entry)) throw fail("is not described by an object");
  const type = typeof entry.dtype === "string" ? safetensorsDtypes.get(entry.dtype) : undefined;
  if (!type) {
    const known = [...safetensorsDtypes.keys()].join(", ");
    throw fail(`has dtype ${JSON.stringify(entry.dtype)?.slice(0, 40)}; supported are ${known}`);
  }
  const shape = integers(entry, "shape");
  if (!shape || shape.length > maxDims) throw fail(`has no shape of at most ${maxDims} non-negative integers`);
  const range = integers(entry, "data_offsets");
  const [begin, end] = range ?? [];
  if (range?.length !== 2 || begin === undefined || end === undefined || begin > end || end > dataBytes) {
    throw fail(
      `has data_offsets ${JSON.stringify(entry.data_offsets)?.slice(0, 60)} outside of ${dataBytes} bytes of data`,
    );
  }
  if (tensorBytes(type, shape) !== end - begin) {
    throw fail(`has ${end - begin} bytes, which do not hold ${type.name} [${shape.join(", ")}]`);
  }
  return { name, dtype: type.name, shape, offset: dataStart + begin, bytes: end - begin };
}

function integers(entry: JsonObject, key: string): number[] | undefined {
  const value = entry[key];
  if (!Array.isArray(value)) return undefined;
  const isSize = (item: JsonValue): item is number =>
    typeof item === "number" && Number.isSafeInteger(item) && item >= 0;
  return value.every(isSize) ? value : undefined;
}

function checkTiling(file: string, tensors: readonly SafetensorsTensor[], dataStart: number, size: number): void {
  const ordered = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  for (const tensor of ordered) {
    if (tensor.offset !== end) {
      const problem =
        tensor.offset < end ? "overlaps the tensor before it" : `leaves a hole of ${tensor.offset - end} bytes`;
      throw badModel(file, `: tensor "${tensor.name.slice(0, 200)}" ${problem}`);
    }
    end += tensor.bytes;
  }
  if (end !== size) {
    throw badModel(file, `has ${size} bytes where its header describes ${end}`, { figures: { size, described: end } });
  }
}
