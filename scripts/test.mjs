// All tests: `pnpm test`. Builds the addon and the native test programs, runs them, then the TypeScript tests.
// The last line counts everything: "N passed, N failed, N skipped".
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const total = { passed: 0, failed: 0, skipped: 0 };

function run(command, args, options = {}) {
  return spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"], ...options });
}

const build = run(process.execPath, ["scripts/build-native.mjs", "--tests"]);
if (build.status !== 0) process.exit(build.status ?? 1);

const testDirectory = join(root, "build", "native-tests");
const programs = existsSync(testDirectory) ? readdirSync(testDirectory).filter((name) => name.endsWith("_test")) : [];
if (programs.length === 0) {
  console.error(`no native test program was built in ${testDirectory}`);
  process.exit(1);
}
for (const program of programs.sort()) {
  console.log(`\n== ${program}`);
  const result = run(join(testDirectory, program), [], { stdio: ["ignore", "pipe", "inherit"], encoding: "utf8" });
  process.stdout.write(result.stdout ?? "");
  const counts = /^(\d+) passed, (\d+) failed$/m.exec(result.stdout ?? "");
  total.passed += Number(counts?.[1] ?? 0);
  // A program that died without its closing line counts as a failure of its own.
  total.failed += counts ? Number(counts[2]) : 1;
  if (counts && counts[2] === "0" && result.status !== 0) total.failed += 1;
}

const report = join(mkdtempSync(join(tmpdir(), "deftree-test-")), "vitest.json");
console.log("\n== vitest");
const vitest = run(process.execPath, [
  join(root, "node_modules", "vitest", "vitest.mjs"),
  "run",
  "--reporter=default",
  "--reporter=json",
  `--outputFile.json=${report}`,
]);
if (existsSync(report)) {
  const json = JSON.parse(readFileSync(report, "utf8"));
  total.passed += json.numPassedTests;
  total.failed += json.numFailedTests;
  total.skipped += json.numPendingTests + json.numTodoTests;
  if (vitest.status !== 0 && json.numFailedTests === 0) total.failed += 1;
} else {
  total.failed += 1;
}

console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed === 0 ? 0 : 1);
