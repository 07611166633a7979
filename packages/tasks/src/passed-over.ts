/**
 * How many of `wanted` an answer that is still being written has passed over: those that come before the last one written
 * and are missing, where what is written keeps the order of `wanted`. Such an answer may still name them later, so this is
 * a reason to prefer another, not to give this one up. 0 for an answer in another order.
 */
export function passedOver<T>(wanted: readonly T[], written: readonly T[]): number {
  const places = new Map(wanted.map((value, place) => [value, place]));
  let last = -1;
  for (const value of written) {
    const place = places.get(value);
    if (place === undefined) continue;
    if (place <= last) return 0;
    last = place;
  }
  const named = written.filter((value) => places.has(value)).length;
  return last + 1 - named;
}
