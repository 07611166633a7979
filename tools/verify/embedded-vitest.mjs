// What the engine's tests import from "vitest", out of the same runner and matchers but without Vite, so that they can be
// bundled into one file and run where nothing can be installed. The bundle (bundle.mjs) puts this in vitest's place.
import {
  ASYMMETRIC_MATCHERS_OBJECT,
  chai,
  customMatchers,
  getState,
  JestAsymmetricMatchers,
  JestChaiExpect,
  JestExtend,
  setState,
} from "@vitest/expect";
import { getCurrentTest, startTests } from "@vitest/runner";

export { afterAll, afterEach, beforeAll, beforeEach, describe, it, test } from "@vitest/runner";

for (const plugin of [JestExtend, JestChaiExpect, JestAsymmetricMatchers]) chai.use(plugin);

export const expect = Object.assign(
  (value, message) => {
    const assertion = chai.expect(value, message);
    const current = getCurrentTest();
    return current ? assertion.withTest(current) : assertion;
  },
  chai.expect,
  globalThis[ASYMMETRIC_MATCHERS_OBJECT],
  { getState: () => getState(expect), setState: (state) => setState(state, expect) },
);
setState({ assertionCalls: 0 }, expect);
chai.expect.extend(expect, customMatchers);

const config = {
  root: ".",
  setupFiles: [],
  name: undefined,
  passWithNoTests: false,
  testNamePattern: undefined,
  allowOnly: false,
  sequence: { seed: 1, hooks: "stack", setupFiles: "list" },
  chaiConfig: undefined,
  maxConcurrency: 1,
  testTimeout: 60_000,
  hookTimeout: 60_000,
  retry: 0,
  includeTaskLocation: false,
  tags: [],
  tagsFilter: undefined,
  strictTags: false,
};

/**
 * Runs test files one after another and prints failures, skipped suites and, last, the counts.
 * @param {Record<string, () => Promise<unknown>>} files what imports each
 * @returns {Promise<boolean>} whether all passed
 */
export async function runTestFiles(files) {
  const counts = { pass: 0, fail: 0, skip: 0 };
  const report = (task, names) => {
    const name = [...names, task.name].join(" > ");
    if (task.type === "test") counts[task.result?.state ?? "skip"]++;
    for (const { message, stack } of task.result?.state === "fail" ? (task.result.errors ?? []) : []) {
      console.log(`FAIL ${name}\n    ${message}\n    ${String(stack).split("\n").slice(1, 4).join("\n    ")}`);
    }
    if (task.type === "suite" && task.mode === "skip") console.log(`skip ${name}`);
    for (const child of task.tasks ?? []) report(child, [...names, task.name]);
  };
  const runner = { config, importFile: (file, source) => (source === "collect" ? files[file]() : undefined) };
  const results = await startTests(Object.keys(files), runner);
  for (const file of results) report(file, []);
  const ok = counts.fail === 0 && counts.pass > 0 && results.every(({ result }) => result?.state !== "fail");
  console.log(`${counts.pass} passed, ${counts.fail} failed, ${counts.skip} skipped`);
  return ok;
}
