/** Element and block types of model files that the engine computes with, under the names of the native side. */

export interface TensorDtype {
  readonly name: string;
  /** Elements per block; 1 for plain types. */
  readonly blockLen: number;
  readonly blockBytes: number;
}

function dtype(name: string, blockLen: number, blockBytes: number): TensorDtype {
  return { name, blockLen, blockBytes };
}

/** By safetensors' names. */
export const safetensorsDtypes: ReadonlyMap<string, TensorDtype> = new Map(
  [dtype("F32", 1, 4), dtype("F16", 1, 2), dtype("BF16", 1, 2)].map((type) => [type.name, type]),
);

/** By GGUF's type numbers. */
export const ggufDtypes: ReadonlyMap<number, TensorDtype> = new Map([
  [0, dtype("F32", 1, 4)],
  [1, dtype("F16", 1, 2)],
  [2, dtype("Q4_0", 32, 18)],
  [3, dtype("Q4_1", 32, 20)],
  [6, dtype("Q5_0", 32, 22)],
  [7, dtype("Q5_1", 32, 24)],
  [8, dtype("Q8_0", 32, 34)],
  [12, dtype("Q4_K", 256, 144)],
  [13, dtype("Q5_K", 256, 176)],
  [14, dtype("Q6_K", 256, 210)],
  [30, dtype("BF16", 1, 2)],
]);

/** Bytes of a row-major tensor, or undefined when the product leaves the safe integers or a row is no whole number of blocks. */
export function tensorBytes(type: TensorDtype, shape: readonly number[]): number | undefined {
  if ((shape.at(-1) ?? 1) % type.blockLen !== 0) return undefined;
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (!Number.isSafeInteger(elements)) return undefined;
  }
  const bytes = (elements / type.blockLen) * type.blockBytes;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
