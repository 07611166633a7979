// The whole command in one folder that runs with Node alone, for machines without a package manager:
//
//   node scripts/bundle.mjs [FOLDER]        (default build/bundle)
//   node FOLDER/deftree.mjs doctor          also demo, run, chat, bench
//
// FOLDER gets deftree.mjs (all JavaScript), deftree.node (the native engine as scripts/build-native.mjs built it, or what
// $DEFTREE_ADDON names) and node_modules with what is read as files: the model mini and the chat-template language.
// deftree.node runs on this platform and architecture, with a C library no older than this machine's.
import { cpSync, existsSync, mkdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "tsdown";

const root = fileURLToPath(new URL("..", import.meta.url));
const output = process.argv[2] ?? join(root, "build", "bundle");
const addon = process.env.DEFTREE_ADDON ?? join(root, "build", "native", "deftree.node");
if (!existsSync(addon)) {
  console.error(`bundle: ${addon} is missing; build it first with \`pnpm build:native\``);
  process.exit(1);
}

// The plots' library imports tslib, whose entry for Node takes its CommonJS file's default export, which has none once it
// is bundled. Its ES module is the same code.
const echarts = realpathSync(join(root, "packages", "eval", "node_modules", "echarts"));
const tslib = join(echarts, "..", "tslib", "tslib.es6.js");

await build({
  config: false,
  alias: { tslib },
  entry: { deftree: join(root, "packages", "cli", "src", "main.ts") },
  outDir: output,
  format: "esm",
  platform: "node",
  dts: false,
  clean: true,
  logLevel: "warn",
  outExtensions: () => ({ js: ".mjs" }),
  inputOptions: { resolve: { conditionNames: ["@deftree/source", "import", "node", "default"] } },
  outputOptions: { codeSplitting: false },
  deps: { alwaysBundle: [/.*/], onlyBundle: false },
});
cpSync(addon, join(output, "deftree.node"));

/** Copies what a package of the workspace's engine has at `entries` to where Node looks for the package. */
function copyPackage(name, entries) {
  const from = realpathSync(join(root, "packages", "engine", "node_modules", name));
  const to = join(output, "node_modules", name);
  mkdirSync(to, { recursive: true });
  for (const entry of entries) cpSync(join(from, entry), join(to, entry), { recursive: true, dereference: true });
}
copyPackage("@deftree/model-mini", ["package.json", "model"]);
copyPackage("@huggingface/jinja", ["package.json", "dist"]);
console.error(`bundle: ${output}`);
