/**
 * The header of a GGUF file, versions 2 and 3, little-endian: metadata and the table of tensors. Only the header is read.
 * Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * Every count is bounded by the bytes that are left before anything is allocated, so a lying header costs nothing. (Why
 * not @huggingface/gguf: docs/decisions/0004-tokenizer-and-templates.md.)
 */
import { badModel } from "./bad-model.js";
import { fileSize } from "./file-reader.js";
import { GgufCursor } from "./gguf-cursor.js";
import { ggufDtypes, tensorBytes } from "./tensor-dtype.js";

export type GgufValue = number | bigint | boolean | string | GgufValue[];

export interface GgufTensor {
  name: string;
  dtype: string;
  /** Row-major: the file lists the fastest dimension first, this the slowest. */
  shape: number[];
  /** From the start of the file. */
  offset: number;
  bytes: number;
}

export interface GgufHeader {
  file: string;
  version: number;
  metadata: ReadonlyMap<string, GgufValue>;
  tensors: GgufTensor[];
}

const maxTensors = 100_000;
const maxMetadata = 10_000;
const maxArrayLength = 4_000_000;
const maxArrayDepth = 2;
const maxDims = 4;
const maxNameBytes = 1024;

/** @throws E_BAD_MODEL for anything malformed, E_MODEL_NOT_FOUND for a missing file. */
export async function readGgufHeader(file: string): Promise<GgufHeader> {
  const size = await fileSize(file);
  const cursor = new GgufCursor(file, size);
  try {
    if (cursor.u32() !== 0x46554747) throw badModel(file, "is no GGUF file: it does not start with GGUF");
    const version = cursor.u32();
    if (version !== 2 && version !== 3)
      throw badModel(file, `has GGUF version ${version}; supported are 2 and 3, little-endian`);
    // The smallest tensor entry has 8 + 0 + 4 + 4 + 8 bytes, the smallest metadata entry 8 + 4 + 1.
    const numTensors = cursor.count("tensors", 24, maxTensors);
    const numMetadata = cursor.count("metadata entries", 13, maxMetadata);
    const metadata = new Map<string, GgufValue>();
    for (let entry = 0; entry < numMetadata; entry++) {
      const key = cursor.string(maxNameBytes);
      if (metadata.has(key)) throw badModel(file, `repeats the metadata key ${key}`);
      metadata.set(key, readValue(cursor, cursor.u32(), 0));
    }
    const described = Array.from({ length: numTensors }, () => readTensor(cursor));
    const dataStart = alignUp(cursor.offset, alignmentOf(metadata, file));
    return {
      file,
      version,
      metadata,
      tensors: placeTensors(file, described, dataStart, size, alignmentOf(metadata, file)),
    };
  } finally {
    cursor.close();
  }
}

function readValue(cursor: GgufCursor, type: number, depth: number): GgufValue {
  switch (type) {
    case 0:
      return cursor.u8();
    case 1:
      return cursor.i8();
    case 2:
      return cursor.u16();
    case 3:
      return cursor.i16();
    case 4:
      return cursor.u32();
    case 5:
      return cursor.i32();
    case 6:
      return cursor.f32();
    case 7:
      return cursor.u8() !== 0;
    case 8:
      return cursor.string();
    case 9: {
      if (depth >= maxArrayDepth) throw badModel(cursor.file, `nests metadata arrays deeper than ${maxArrayDepth}`);
      const elementType = cursor.u32();
      const length = cursor.count("array elements", 1, maxArrayLength);
      const values: GgufValue[] = [];
      for (let index = 0; index < length; index++) values.push(readValue(cursor, elementType, depth + 1));
      return values;
    }
    case 10:
      return cursor.u64();
    case 11:
      return cursor.i64();
    case 12:
      return cursor.f64();
    default:
      throw badModel(cursor.file, `has a metadata value of unknown type ${type}`);
  }
}

interface DescribedTensor {
  name: string;
  type: number;
  shape: number[];
  offset: bigint;
}

function readTensor(cursor: GgufCursor): DescribedTensor {
  const name = cursor.string(maxNameBytes);
  const numDims = cursor.u32();
  if (numDims > maxDims)
    throw badModel(cursor.file, `: tensor ${name} has ${numDims} dimensions; at most ${maxDims} are read`);
  const shape: number[] = [];
  for (let dim = 0; dim < numDims; dim++) {
    const length = cursor.u64();
    if (length < 1n || length > 1n << 40n) throw badModel(cursor.file, `: tensor ${name} has a dimension of ${length}`);
    shape.unshift(Number(length));
  }
  return { name, shape, type: cursor.u32(), offset: cursor.u64() };
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, file: string): number {
  const alignment = metadata.get("general.alignment") ?? 32;
  const valid = typeof alignment === "number" && Number.isInteger(alignment) && alignment >= 8 && alignment <= 65536;
  if (!valid || (alignment & (alignment - 1)) !== 0) {
    throw badModel(
      file,
      `has general.alignment ${String(alignment).slice(0, 40)}; expected a power of two from 8 to 65536`,
    );
  }
  return alignment;
}

function alignUp(offset: number, alignment: number): number {
  return Math.ceil(offset / alignment) * alignment;
}

function placeTensors(
  file: string,
  described: readonly DescribedTensor[],
  dataStart: number,
  size: number,
  alignment: number,
): GgufTensor[] {
  const names = new Set<string>();
  const tensors = described.map(({ name, type, shape, offset }): GgufTensor => {
    const fail = (problem: string) => badModel(file, `: tensor ${name} ${problem}`);
    if (names.has(name)) throw fail("is listed twice");
    names.add(name);
    const dtype = ggufDtypes.get(type);
    if (!dtype) {
      const known = [...ggufDtypes.values()].map((known) => known.name).join(", ");
      throw fail(`has type number ${type}; supported are ${known}`);
    }
    const bytes = tensorBytes(dtype, shape);
    if (bytes === undefined) throw fail(`has the shape [${shape.join(", ")}], impossible for ${dtype.name}`);
    if (offset % BigInt(alignment) !== 0n)
      throw fail(`has offset ${offset}, no multiple of the alignment ${alignment}`);
    if (offset + BigInt(bytes) > BigInt(Math.max(0, size - dataStart))) {
      throw fail(
        `ends at byte ${BigInt(dataStart) + offset + BigInt(bytes)} of a file with ${size} bytes (half-copied?)`,
      );
    }
    return { name, dtype: dtype.name, shape, offset: dataStart + Number(offset), bytes };
  });
  const ordered = [...tensors].sort((a, b) => a.offset - b.offset);
  for (let index = 1; index < ordered.length; index++) {
    const [before, tensor] = [ordered[index - 1]!, ordered[index]!];
    if (before.offset + before.bytes > tensor.offset)
      throw badModel(file, `: tensors ${before.name} and ${tensor.name} overlap`);
  }
  return tensors;
}
