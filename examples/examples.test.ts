import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";

const folder = fileURLToPath(new URL(".", import.meta.url));

/** What a run must print, whatever the sampled tokens are. */
const expected: Record<string, RegExp[]> = {
  "01-chat.ts": [/^sorted: \[\d/m, /^streamed: \[\d/m, /^64 prompt tokens, [1-9]\d* of them reused/m],
  "02-fork-and-prune.ts": [/^8 branches of 160 shared tokens: \d+ tokens stored/m, /continued greedily:\n\[.*\]$/m],
  "03-tree-of-thoughts.ts": [/^level 1: kept 1$/m, /^(solved|best): \[\d/m, /^\d+ thoughts, \d+ tokens, KV read/m],
  "04-strategies.ts": [
    /^best-of-8: (not )?solved, [1-8] thoughts, \d+ tokens$/m,
    /^self-consistency-8: .*\ntot-continue: solved, .*\ntot-depth-first: .*\nmcts-8: /m,
  ],
  "05-own-strategy.ts": [/^compared 8 answers$/m, /^(solved|best): \[\d/m],
  // Eight prompts of about 580 tokens that have all but 20 in common.
  "06-shared-system-prompt.ts": [/^8 workers asked with 4\d{3} prompt tokens; [67]\d\d were computed$/m],
};

const examples = readdirSync(folder).filter((name) => /^\d.*\.ts$/.test(name));

describe("examples", () => {
  it("each has its expected output here", () => {
    expect(examples).toEqual(Object.keys(expected));
  });

  it.each(examples)("%s runs and prints what it says", async (name) => {
    const args = ["--import", "tsx", "--conditions", "@deftree/source", name];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: folder });
    for (const pattern of expected[name]!) expect(stdout).toMatch(pattern);
  });
});
