/** Finds and loads the native addon, once per thread. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DeftreeError } from "./errors.js";
import type { NativeAddon } from "./native-addon.js";

// Named apart from CommonJS's own `require`, which the bundled build uses in the same scope.
const requireAddon = createRequire(import.meta.url);

let loaded: NativeAddon | undefined;

/**
 * Tries, in order: the file named by the environment variable `DEFTREE_ADDON` (and then nothing else), a file beside this
 * one (and then nothing else; scripts/bundle.mjs puts it there), the workspace's own build, the platform's prebuilt package.
 * @throws E_ADDON_MISSING with every attempt's error and what can be done.
 */
export function loadAddon(): NativeAddon {
  loaded ??= firstThatLoads(process.env.DEFTREE_ADDON ? [process.env.DEFTREE_ADDON] : candidates());
  return loaded;
}

/** @internal Exported for its test. */
export function firstThatLoads(specifiers: readonly string[]): NativeAddon {
  const attempts: string[] = [];
  const causes: unknown[] = [];
  for (const specifier of specifiers) {
    try {
      return requireAddon(specifier) as NativeAddon;
    } catch (cause) {
      causes.push(cause);
      const [firstLine] = String(cause instanceof Error ? cause.message : cause).split("\n");
      attempts.push(`  ${specifier}: ${firstLine}`);
    }
  }
  throw new DeftreeError(
    "E_ADDON_MISSING",
    [
      `The native engine could not be loaded on ${process.platform}-${process.arch}, Node ${process.version}:`,
      ...attempts,
      "Possible solutions:",
      "  In the repository: build it with `pnpm build:native` (needs CMake and a C++20 compiler).",
      `  Installed from npm: add the platform's package, \`npm install ${prebuiltPackage()}\`, and do not omit optional dependencies.`,
      "  Elsewhere: set DEFTREE_ADDON to the path of deftree.node.",
    ].join("\n"),
    { cause: new AggregateError(causes, "every candidate failed to load") },
  );
}

function prebuiltPackage(): string {
  return `@deftree/engine-${process.platform}-${process.arch}`;
}

function candidates(): string[] {
  const here = dirname(fileURLToPath(import.meta.url));
  const bundled = join(here, "deftree.node");
  if (existsSync(bundled)) return [bundled];
  return [join(here, "..", "..", "..", "build", "native", "deftree.node"), prebuiltPackage()];
}
