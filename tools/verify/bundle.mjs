// Bundles the Node side of tools/verify/run into FOLDER (build/verify): one .mjs each for the model runner, the bad inputs
// and the engine's tests, so that a machine without a package manager can run them: node tools/verify/bundle.mjs [FOLDER]
import { cpSync, existsSync, mkdirSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { join, parse } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "tsdown";

const here = fileURLToPath(new URL(".", import.meta.url));
const root = join(here, "..", "..");
const output = process.argv[2] ?? join(root, "build", "verify");

/** The folder of a package that `from` depends on. */
const packageFolder = (name, from) => {
  const folder = createRequire(from)
    .resolve.paths(name)
    .map((modules) => join(modules, name))
    .find((candidate) => existsSync(join(candidate, "package.json")));
  if (!folder) throw new Error(`${name} is not installed for ${from}`);
  return realpathSync(folder);
};
const engineManifest = join(root, "packages", "engine", "package.json");
const vitestManifest = join(packageFolder("vitest", join(root, "package.json")), "package.json");

await build({
  config: false,
  entry: Object.fromEntries(
    ["model.ts", "gguf-to-folder.ts", "bad-input.ts", "contract.mjs"].map((file) => [
      parse(file).name,
      join(here, file),
    ]),
  ),
  outDir: output,
  format: "esm",
  platform: "node",
  dts: false,
  clean: true,
  logLevel: "warn",
  outExtensions: () => ({ js: ".mjs" }),
  alias: {
    vitest: join(here, "embedded-vitest.mjs"),
    ...Object.fromEntries(
      ["@vitest/runner", "@vitest/expect", "chai"].map((name) => [name, packageFolder(name, vitestManifest)]),
    ),
  },
  deps: { alwaysBundle: [/.*/] },
});

// The template worker loads this package by its path, in a thread of its own.
const jinja = join(output, "node_modules", "@huggingface", "jinja");
mkdirSync(jinja, { recursive: true });
cpSync(packageFolder("@huggingface/jinja", engineManifest), jinja, { recursive: true, dereference: true });
