/**
 * `bad-input FOLDER DEVICE`: what a device that is absent, too small or full gets, and whether its memory comes back. Prints
 * a line for each case and, last, the counts; FOLDER takes a small model.
 */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { loadAddon } from "../../packages/engine/src/addon-loader.js";
import { DeftreeError, Engine, type EngineBranch, type EngineOptions } from "../../packages/engine/src/index.js";
import { writeTinyModel } from "../../packages/engine/test/tiny-model.js";

const [folder, device] = process.argv.slice(2) as [string, "cpu" | "cuda"];
if (!folder || !["cpu", "cuda"].includes(device)) throw new Error("usage: bad-input FOLDER cpu|cuda");
const giant = "random:llama-3-8b,layers=80,hidden=8192,intermediate=28672,heads=64";
const tiny = writeTinyModel(path.join(folder, "tiny"), { dtype: "BF16" });

if (process.argv[4] === "load") {
  console.log(await errorOf(tiny, {}));
  process.exit(0);
}

let passed = 0;
let failed = 0;

if (device === "cuda") {
  check("no visible GPU", withoutGpus(), /^E_DEVICE .{20,}/);
  check("a model of 70 billion weights", await errorOf(giant, { kvTokens: 4096 }), /^E_OOM .*GiB.*GiB/);
  check("KV for 2^30 tokens", await errorOf(tiny, { kvTokens: 2 ** 30 }), /^E_OOM .*GiB.*GiB/);
  check("int8 weights", await errorOf(tiny, { weights: "int8" }), /^E_BAD_ARGUMENT .*int8/);
  await loadAndDispose(tiny); // the driver keeps some memory of a process from its first load on
  await checkMemory("after a load that was refused", () => errorOf(giant, { kvTokens: 4096 }));
  for (const afterMs of [1, 5, 15, 30]) {
    await checkMemory(`after a load aborted at ${afterMs} ms`, () => abortedLoad("random:llama-3-8b", afterMs));
  }
  await checkMemory("after 30 loads", async () => {
    for (let cycle = 0; cycle < 30; cycle++) await loadAndDispose(tiny);
    return "loaded";
  });
}
await checkFullPages();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);

function check(what: string, got: string, expected: RegExp): void {
  const ok = expected.test(got);
  if (ok) passed++;
  else failed++;
  console.log(`${ok ? "ok  " : "FAIL"} ${what}: ${got.slice(0, 400)}${ok ? "" : `, where ${expected} was expected`}`);
}

async function errorOf(model: string, options: EngineOptions): Promise<string> {
  try {
    await (await Engine.load(model, { ...options, device })).dispose();
    return "loaded";
  } catch (error) {
    return DeftreeError.isInstance(error) ? `${error.code} ${error.message}` : `no DeftreeError: ${error}`;
  }
}

function withoutGpus(): string {
  const child = spawnSync(process.execPath, [process.argv[1]!, folder, device, "load"], {
    env: { ...process.env, CUDA_VISIBLE_DEVICES: "" },
    encoding: "utf8",
  });
  return child.stdout.trim() || child.stderr;
}

async function loadAndDispose(model: string): Promise<void> {
  await using engine = await Engine.load(model, { device, kvTokens: 4096 });
  using branch = engine.branch();
  await branch.extend([5, 6, 7]);
  await branch.decode({ maxTokens: 4, stopTokens: [] });
}

async function abortedLoad(model: string, afterMs: number): Promise<string> {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), afterMs);
  try {
    await (await Engine.load(model, { device, kvTokens: 4096, signal: controller.signal })).dispose();
    return "loaded before that";
  } catch (error) {
    return DeftreeError.isInstance(error) ? error.code : `no DeftreeError: ${error}`;
  }
}

/** Free bytes of the GPU, before and afterwards. The load that an abort left behind ends a little later: 10 s at most. */
async function checkMemory(what: string, work: () => Promise<string>): Promise<void> {
  const freeBytes = () => loadAddon().cudaStatus().devices[0]!.freeBytes;
  const before = freeBytes();
  const outcome = await work();
  let lost = before - freeBytes();
  for (let waits = 0; lost > 0 && waits < 100; waits++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    lost = before - freeBytes();
  }
  const verdict = lost <= 0 ? "nothing lost" : `${lost} bytes lost`;
  check(`memory ${what}`, `${verdict} of ${(before / 2 ** 30).toFixed(2)} GiB free (${outcome})`, /^nothing lost/);
}

/** Four branches of a search want more tokens than there are pages; four others are modest. None loses a token. */
async function checkFullPages(): Promise<void> {
  await using engine = await Engine.load(tiny, { device, kvTokens: 640 });
  await using roomy = await Engine.load(tiny, { device, kvTokens: 8192 });
  const prompt = Array.from({ length: 250 }, (_, index) => 3 + ((index * 37) % 256));
  const root = engine.branch();
  await root.extend(prompt);
  const children = root.fork(8);
  const decoded = await Promise.all(children.map((child, index) => decodeAsFarAs(child, index < 4 ? 16 : 96)));
  const same = async (index: number) => {
    const difference = await distance(children[index]!, [...prompt, ...decoded[index]!.tokens], roomy);
    const verdict = difference < 0.02 ? "within bfloat16" : "too far";
    return `${verdict}: logits ${difference.toExponential(1)} apart after ${decoded[index]!.tokens.length} tokens`;
  };
  for (let index = 0; index < 4; index++) {
    check(`modest branch ${index}`, decoded[index]!.end, /^length$/);
    check("its logits, against those with pages enough", await same(index), /^within/);
  }
  for (let index = 4; index < 8; index++)
    check(`wanting branch ${index}`, decoded[index]!.end, /^E_KV_FULL .*wanted.*free/);
  for (let index = 5; index < 8; index++) children[index]!.prune();
  check("branch 4's logits, when the others are pruned", await same(4), /^within/);
  check("branch 0 goes on", (await decodeAsFarAs(children[0]!, 64)).end, /^length$/);
  for (const branch of [root, ...children]) branch.prune();
  await engine.checkInvariants();
  const { freePages, numPages } = engine.stats();
  check("pages after pruning", `${freePages} of ${numPages} free`, /^40 of 40 free/);
}

async function decodeAsFarAs(branch: EngineBranch, maxTokens: number): Promise<{ tokens: number[]; end: string }> {
  const stream = branch.decode({ maxTokens, stopTokens: [], temperature: 1, seed: 3 });
  const tokens: number[] = [];
  try {
    for await (const { id } of stream) tokens.push(id);
    return { tokens, end: (await stream).finishReason };
  } catch (error) {
    return { tokens, end: DeftreeError.isInstance(error) ? `${error.code} ${error.message}` : String(error) };
  }
}

/** Norm of the difference between a branch's logits and those of its tokens on another engine, relative to the latter. */
async function distance(branch: EngineBranch, tokens: readonly number[], other: Engine): Promise<number> {
  using fresh = other.branch();
  await fresh.extend(tokens);
  const [actual, expected] = [await branch.logits(), await fresh.logits()];
  let [difference, size] = [0, 0];
  for (const [index, value] of expected.entries()) {
    difference += (value - actual[index]!) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(difference / size);
}
