/**
 * Where the contract's engines compute, and how exactly: `DEFTREE_TEST_DEVICE=cuda npx vitest run packages/engine/test/engine.test.ts`
 * runs the same cases on a GPU.
 */
export const testDevice = process.env.DEFTREE_TEST_DEVICE === "cuda" ? "cuda" : "cpu";

interface Exactness {
  /**
   * Whether a branch's logits are the same to the bit whatever else is in the step and however its prefix was computed. A GPU
   * picks its kernels by the number of rows, so there a greedy decode may leave another one where two tokens nearly tie.
   */
  bitwise: boolean;
  /** How far two computations of one token's log-probability, or of the difference of two logits, may be apart. */
  logprob: number;
  /** How far `score` of one token may be from the log-softmax of the same branch's `logits`. */
  logSoftmax: number;
}

/**
 * On a GPU matrix inputs are rounded to bf16 (relative 2^-9) in each of the model's layers: about 0.02 of logits up to 5. Twice that
 * for a difference of two. `logits` and `score` are two forward passes there.
 */
export const exactness: Exactness =
  testDevice === "cuda"
    ? { bitwise: false, logprob: 0.05, logSoftmax: 0.05 }
    : { bitwise: true, logprob: 0.02, logSoftmax: 1e-3 };
