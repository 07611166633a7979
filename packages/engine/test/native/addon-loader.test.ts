import { expect, test } from "vitest";
import { firstThatLoads, loadAddon } from "../../src/addon-loader.js";
import { DeftreeError } from "../../src/errors.js";
import { addonPath } from "./harness.js";

test("the addon says what it is", () => {
  const addon = loadAddon();
  expect(addon).toBe(loadAddon());
  expect(addon.version).toMatch(/^\d+\.\d+\.\d+$/);
  expect(["scalar", "avx2", "avx512", "amx"]).toContain(addon.cpu.level);
});

test("the first candidate that loads is taken", () => {
  expect(firstThatLoads(["/nowhere/deftree.node", addonPath]).version).toBe(loadAddon().version);
});

test("without any, the error lists every attempt and the ways out", () => {
  let error: unknown;
  try {
    firstThatLoads(["/nowhere/deftree.node", "@deftree/engine-no-such-platform"]);
  } catch (thrown) {
    error = thrown;
  }
  expect(DeftreeError.isInstance(error) && error.code).toBe("E_ADDON_MISSING");
  const { message, cause } = error as DeftreeError;
  expect(message).toContain("/nowhere/deftree.node: ");
  expect(message).toContain("@deftree/engine-no-such-platform: ");
  expect(message).toContain("pnpm build:native");
  expect((cause as AggregateError).errors).toHaveLength(2);
});
