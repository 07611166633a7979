/**
 * The sampling seed of a thought: a hash of its parent's seed (the root has the search's) and of how many children the
 * parent had before. So a thought decodes the same whenever it grows and whatever else runs, and two thoughts from one
 * prompt never share their random numbers. 32 bits; the mixing steps are MurmurHash3's finalizer.
 */
export function thoughtSeed(parentSeed: number, child: number): number {
  const low = parentSeed >>> 0;
  const high = Math.floor(parentSeed / 2 ** 32) >>> 0;
  return mix(mix(mix(low) ^ high) ^ child);
}

/** The seed of the `sample`-th verdict on a question: it depends on what is asked, not on when. */
export function evaluationSeed(seed: number, question: number, sample: number): number {
  return thoughtSeed(thoughtSeed(seed, question) ^ 0x5bd1e995, sample);
}

/** 32 bits of a text (FNV-1a over its UTF-16 units). */
export function textHash(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

function mix(value: number): number {
  let h = (value + 0x9e3779b9) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
