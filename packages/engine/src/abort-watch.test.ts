import { getEventListeners } from "node:events";
import { expect, it } from "vitest";
import { AbortWatch } from "./abort-watch.js";

it("listens once for all requests of a signal, and not at all after the last has ended", () => {
  const watch = new AbortWatch(() => {});
  const { signal } = new AbortController();
  const detach = Array.from({ length: 100 }, (_, request) => watch.watch(request, signal));
  expect(getEventListeners(signal, "abort")).toHaveLength(1);
  for (const end of detach) for (let twice = 0; twice < 2; twice++) end();
  expect(getEventListeners(signal, "abort")).toHaveLength(0);
  watch.watch(100, signal);
  expect(getEventListeners(signal, "abort")).toHaveLength(1);
});

it("cancels what is open on the signal that aborts, at once and once", () => {
  const cancelled: number[][] = [];
  const watch = new AbortWatch((requests) => cancelled.push(requests));
  const [one, other] = [new AbortController(), new AbortController()];
  const detach = watch.watch(1, one.signal);
  watch.watch(2, one.signal);
  watch.watch(3, one.signal);
  watch.watch(4, other.signal);
  detach();
  one.abort();
  one.abort();
  expect(cancelled).toEqual([[2, 3]]);
  other.abort();
  expect(cancelled).toEqual([[2, 3], [4]]);
});
