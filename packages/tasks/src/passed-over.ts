/**
 * How many of the wanted values an answer that is still being written has passed over: those that come before the last one
 * written and are missing. `orders` are the wanted values in each order that an answer may have; of those that what is
 * written keeps, the one that counts least decides. Such an answer may still name them later, so this is a reason to prefer
 * another, not to give this one up. 0 for an answer in another order.
 */
export function passedOver<T>(orders: readonly (readonly T[])[], written: readonly T[]): number {
  const counts = orders.map((wanted) => passedOverIn(wanted, written)).filter((count) => count !== undefined);
  return counts.length === 0 ? 0 : Math.min(...counts);
}

/** Undefined where `written` is in another order. */
function passedOverIn<T>(wanted: readonly T[], written: readonly T[]): number | undefined {
  const places = new Map(wanted.map((value, place) => [value, place]));
  let last = -1;
  for (const value of written) {
    const place = places.get(value);
    if (place === undefined) continue;
    if (place <= last) return undefined;
    last = place;
  }
  const named = written.filter((value) => places.has(value)).length;
  return last + 1 - named;
}
