// The engine's tests, as one bundle: the device is DEFTREE_TEST_DEVICE, the files are those that depend on it.
import { runTestFiles } from "vitest";

const ok = await runTestFiles({
  "engine.test.ts": () => import("../../packages/engine/test/engine.test.ts"),
  "random-operations.test.ts": () => import("../../packages/engine/test/random-operations.test.ts"),
  "smollm2.test.ts": () => import("../../packages/engine/test/smollm2.test.ts"),
});
process.exit(ok ? 0 : 1);
