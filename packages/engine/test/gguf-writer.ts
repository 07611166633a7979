/** Writes GGUF files, right ones and wrong ones, for tests. */

export type MetadataToWrite =
  | { type: number; value: number | bigint | string | boolean }
  | { type: 9; elementType: number; values: (number | string)[] };

interface GgufTensorToWrite {
  name: string;
  /** As the file lists it: fastest dimension first. */
  dims: (number | bigint)[];
  type: number;
  offset: number | bigint;
}

export const text = (value: string): MetadataToWrite => ({ type: 8, value });
export const u32 = (value: number): MetadataToWrite => ({ type: 4, value });
export const f32 = (value: number): MetadataToWrite => ({ type: 6, value });
export const bool = (value: boolean): MetadataToWrite => ({ type: 7, value });
export const texts = (values: string[]): MetadataToWrite => ({ type: 9, elementType: 8, values });
export const i32s = (values: number[]): MetadataToWrite => ({ type: 9, elementType: 5, values });
export const f32s = (values: number[]): MetadataToWrite => ({ type: 9, elementType: 6, values });

export interface GgufToWrite {
  version?: number;
  metadata: [string, MetadataToWrite][];
  tensors: GgufTensorToWrite[];
  data: Uint8Array;
  /** Instead of the true counts. */
  numTensors?: bigint;
  numMetadata?: bigint;
}

export function ggufFile({ version = 3, metadata, tensors, data, numTensors, numMetadata }: GgufToWrite): Buffer {
  const parts: Buffer[] = [Buffer.from("GGUF"), scalar(4, version), scalar(10, numTensors ?? BigInt(tensors.length))];
  parts.push(scalar(10, numMetadata ?? BigInt(metadata.length)));
  for (const [key, value] of metadata) {
    parts.push(scalar(8, key), scalar(4, value.type));
    if ("values" in value) {
      parts.push(scalar(4, value.elementType), scalar(10, BigInt(value.values.length)));
      for (const item of value.values) parts.push(scalar(value.elementType, item));
    } else parts.push(scalar(value.type, value.value));
  }
  for (const { name, dims, type, offset } of tensors) {
    parts.push(scalar(8, name), scalar(4, dims.length), ...dims.map((dim) => scalar(10, BigInt(dim))));
    parts.push(scalar(4, type), scalar(10, BigInt(offset)));
  }
  const header = Buffer.concat(parts);
  return Buffer.concat([header, Buffer.alloc((32 - (header.length % 32)) % 32), data]);
}

function scalar(type: number, value: number | bigint | string | boolean): Buffer {
  if (type === 8) {
    const bytes = Buffer.from(value as string);
    return Buffer.concat([scalar(10, BigInt(bytes.length)), bytes]);
  }
  const buffer = Buffer.alloc(8);
  switch (type) {
    case 4:
      buffer.writeUInt32LE(Number(value));
      return buffer.subarray(0, 4);
    case 5:
      buffer.writeInt32LE(Number(value));
      return buffer.subarray(0, 4);
    case 6:
      buffer.writeFloatLE(Number(value));
      return buffer.subarray(0, 4);
    case 7:
      buffer.writeUInt8(value ? 1 : 0);
      return buffer.subarray(0, 1);
    case 10:
      buffer.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
      return buffer;
    default:
      throw new Error(`the writer has no GGUF type ${type}`);
  }
}
