// Builds the native engine with CMake into build/native/deftree.node; a second call is a quick no-op.
//
//   node scripts/build-native.mjs [--tests] [--sanitize address,undefined|thread]
//
// --tests adds the native test programs, build/native-tests/*_test. --sanitize builds a copy of everything but CUDA in
// build/sanitize-<name>/. All progress goes to stderr.
//
// CUDA is built in when nvcc 12.8 or newer is found. DEFTREE_CUDA: "off" leaves it out, "on" fails without nvcc.
// DEFTREE_CUDA_ARCHS: compute capabilities to compile for; by default those of this machine's GPUs, or 80,89,90a.
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chooseCuda } from "./choose-cuda.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));

const installHints = {
  linux: "Debian/Ubuntu: sudo apt install g++ cmake ninja-build\n  Fedora: sudo dnf install gcc-c++ cmake ninja-build",
  darwin: "macOS: xcode-select --install && brew install cmake ninja",
};

function fail(message) {
  console.error(`build-native: ${message}`);
  process.exit(1);
}

function missing(tool) {
  const hint = installHints[process.platform] ?? "Install CMake 3.16 or later and a C++20 compiler";
  fail(`E_ADDON_MISSING: ${tool} was not found, and the native engine is built from source.\n  ${hint}`);
}

const has = (tool) => spawnSync(tool, ["--version"], { stdio: "ignore" }).status === 0;

/** Runs a command with its output on stderr; ends the process when it fails. */
function run(command, args, wayOut = "") {
  const result = spawnSync(command, args, { cwd: root, stdio: ["ignore", 2, 2] });
  if (result.error) fail(`${command} could not be started: ${result.error.message}`);
  if (result.status !== 0) fail(`${command} ${args[0]} failed, see above${wayOut}`);
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/** Holds `file` while this process builds; waits for another build, and takes over the lock of a dead one. */
function lock(file) {
  for (let waits = 0; ; waits++) {
    try {
      const handle = openSync(file, "wx");
      writeSync(handle, String(process.pid));
      closeSync(handle);
      process.on("exit", () => rmSync(file, { force: true }));
      for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));
      return;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    const owner = Number(existsSync(file) ? readFileSync(file, "utf8") : 0);
    // An empty file is a lock that its owner is just writing, unless it stays empty.
    if (owner > 0 ? !isAlive(owner) : waits > 20) rmSync(file, { force: true });
    else if (waits === 0) console.error(`build-native: waiting for the build of process ${owner}`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  }
}

const { values: options } = parseArgs({ options: { tests: { type: "boolean" }, sanitize: { type: "string" } } });
if (!has("cmake")) missing("cmake");
const compiler = process.env.CXX ?? ["c++", "g++", "clang++"].find(has);
if (!compiler) missing("a C++ compiler");

const output = options.sanitize
  ? join(root, "build", `sanitize-${options.sanitize.replace(",", "-")}`)
  : join(root, "build");
const tree = join(output, "cmake");
mkdirSync(tree, { recursive: true });
lock(join(output, "build.lock"));

const stamp = join(tree, "configured.json");
const before = existsSync(stamp) ? JSON.parse(readFileSync(stamp, "utf8")) : {};
const cuda = options.sanitize ? { reason: "left out of sanitizer builds" } : chooseCuda(root);
if (process.env.DEFTREE_CUDA === "on" && !cuda.nvcc) fail(`DEFTREE_CUDA is "on", but ${cuda.reason}`);
const wayOut = cuda.nvcc ? "; DEFTREE_CUDA=off builds without CUDA" : "";
const wanted = {
  CMAKE_BUILD_TYPE: "Release",
  CMAKE_LIBRARY_OUTPUT_DIRECTORY: join(output, "native"),
  CMAKE_RUNTIME_OUTPUT_DIRECTORY: join(output, "native-tests"),
  DEFTREE_SANITIZE: options.sanitize ?? "",
  // Once asked for, tests stay part of the tree: switching back and forth would configure anew each time.
  DEFTREE_TESTS: options.tests ? "ON" : (before.DEFTREE_TESTS ?? "OFF"),
  DEFTREE_CUDA: cuda.nvcc ? "ON" : "OFF",
  ...(cuda.nvcc ? { CMAKE_CUDA_COMPILER: cuda.nvcc, DEFTREE_CUDA_ARCHS: cuda.architectures } : {}),
};
if (JSON.stringify(before) !== JSON.stringify(wanted)) {
  console.error(`build-native: CUDA: ${cuda.reason}`);
  // CMake keeps the CUDA compiler that it first met.
  const { CMAKE_CUDA_COMPILER: nvccBefore } = before;
  if (nvccBefore && cuda.nvcc && nvccBefore !== cuda.nvcc) {
    rmSync(tree, { recursive: true });
    mkdirSync(tree);
  }
  const generator = existsSync(join(tree, "CMakeCache.txt")) || !has("ninja") ? [] : ["-G", "Ninja"];
  const definitions = Object.entries(wanted).map(([name, value]) => `-D${name}=${value}`);
  run("cmake", ["-S", join(root, "native"), "-B", tree, ...generator, ...definitions], wayOut);
  writeFileSync(stamp, JSON.stringify(wanted));
}
const targets = options.tests ? [] : ["--target", "deftree_addon"];
run("cmake", ["--build", tree, "--parallel", String(availableParallelism()), ...targets], wayOut);
