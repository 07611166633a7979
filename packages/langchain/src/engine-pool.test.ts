import { expect, it } from "vitest";
import { FakeEngine } from "../test/fake-engine.js";
import { EnginePool } from "./engine-pool.js";

function pool() {
  const loaded: FakeEngine[] = [];
  const engines = new EnginePool(async (model) => {
    if (model === "missing") throw new Error("no such model");
    loaded.push(new FakeEngine({ reply: () => "" }));
    return loaded.at(-1)!;
  });
  return { engines, loaded };
}

it("shares one engine among equal settings and disposes it with its last user", async () => {
  const { engines, loaded } = pool();
  const one = engines.lease("mini", { threads: 1, device: undefined });
  const other = engines.lease("mini", { threads: 1 });
  expect(await one.engine).toBe(await other.engine);
  await one.giveBack();
  await one.giveBack();
  expect(loaded[0]!.disposed).toBe(false);
  await other.giveBack();
  expect(loaded[0]!.disposed).toBe(true);
  expect(await engines.lease("mini", { threads: 1 }).engine).not.toBe(loaded[0]);
});

it("loads another engine for other settings", async () => {
  const { engines } = pool();
  const engine = await engines.lease("mini", {}).engine;
  expect(await engines.lease("mini", { threads: 2 }).engine).not.toBe(engine);
  expect(await engines.lease("other", {}).engine).not.toBe(engine);
});

it("tries again after a load that failed", async () => {
  const { engines } = pool();
  const lease = engines.lease("missing", {});
  await expect(lease.engine).rejects.toThrow("no such model");
  await lease.giveBack();
  expect(engines.lease("missing", {}).engine).not.toBe(lease.engine);
});
