/**
 * How many of the wanted an answer that is still being written has passed over: those that come before the last one written
 * and are missing. `orders`: the wanted, in each order in which an answer may name them; of the orders that it keeps, the
 * one that speaks best for it counts, and where it keeps none nothing is known. The answer may still name them later: so
 * this is a reason to prefer another, not to give this one up.
 */
export function passedOver<T>(orders: readonly (readonly T[])[], written: readonly T[]): number {
  const counts = orders.flatMap((order) => passedInOrder(order, written) ?? []);
  return counts.length === 0 ? 0 : Math.min(...counts);
}

/** Undefined where what is written does not keep the order. Others than the wanted do not count. */
function passedInOrder<T>(order: readonly T[], written: readonly T[]): number | undefined {
  const places = new Map(order.map((value, place) => [value, place]));
  let last = -1;
  let named = 0;
  for (const value of written) {
    const place = places.get(value);
    if (place === undefined) continue;
    if (place <= last) return undefined;
    last = place;
    named++;
  }
  return last + 1 - named;
}
