import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { type ChatRequest, OpenAiServer } from "../packages/langchain/test/openai-server.js";

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
  // Eight prompts of about 463 tokens that have all but 20 in common.
  "06-shared-system-prompt.ts": [/^8 workers asked with 37\d\d prompt tokens; [56]\d\d were computed$/m],
  // 1024 tokens of prompt and 192 of thoughts are read once, or by each of three queries.
  "07-attention-plan.ts": [
    /^deft-flatten: .*; reads 1216 KV tokens, unshared 3264$/m,
    /^deft-node: 1024 x 3, .*; reads 1216 KV tokens/m,
    /^radix: .*; reads 3264 KV tokens/m,
  ],
  "08-live-events.ts": [
    /^thought 1 says "/m,
    /^thought \d+ scores -?\d+$/m,
    /1 search:started, .* 1 solution, 1 done$/m,
  ],
  "09-best-of-n.ts": [/^errors of 8 samples: \d+(, \d+){7}$/m, /^best, with \d+: \d/m],
  "10-set-intersection.ts": [/^found: \[/m, /^\d+ errors, \d+ thoughts, \d+ tokens$/m],
  "11-keyword-counting.ts": [/^io: \d+ errors: \{/m, /^got: \d+ errors: \{/m],
  "12-document-merging.ts": [/^skipped: mini does not know document merging/m],
  "13-graph-of-thoughts.ts": [/^thought \d+ joins \d+ and \d+$/m, /^\d+ errors in 64 digits$/m],
  "14-remote-server.ts": [/^skipped: DEFTREE_SERVER_URL names no server$/m],
  "15-agent-that-thinks.ts": [
    /^without thinking: (right|wrong)\nthought \d+ thoughts, \d+ of them pruned\nafter thinking: (right|wrong)$/m,
  ],
  // Eight prompts of about 848 tokens that have all but 20 in common, and answers of 40 tokens at most.
  "16-graph-fan-out.ts": [
    /^8 workers asked with 67\d\d prompt tokens; 9\d\d were computed\nat most 1[0-3]\d\d tokens were stored/m,
    /would have read ([4-9]|1\d)\.\d times the bytes$/m,
  ],
  "17-resume-a-graph.ts": [/^cut off after 3\d thoughts\nresumed: \d+ more\nsolved: (true|false)$/m],
  "18-agent-with-a-tool.ts": [
    /^calls sort\(\{"list":"(short|long)"\}\)\nthe tool says: \[\d.*\nits tree has \d+ thoughts$/m,
  ],
  "19-structured-output.ts": [
    /^parsed: \{"sorted":\[\d(,\d){4}\],"sure":"(yes|no)"\}$/m,
    /^by a regular expression: \[\d, \d, \d\]$/m,
    /^refused: .*uniqueItems/m,
  ],
};

async function run(name: string, environment: Record<string, string> = {}): Promise<string> {
  const args = ["--import", "tsx", "--conditions", "@deftree/source", name];
  const env = { ...process.env, ...environment };
  return (await promisify(execFile)(process.execPath, args, { cwd: folder, env })).stdout;
}

const examples = readdirSync(folder).filter((name) => /^\d.*\.ts$/.test(name));

describe("examples", () => {
  it("each has its expected output here", () => {
    expect(examples).toEqual(Object.keys(expected));
  });

  it.each(examples)("%s runs and prints what it says", async (name) => {
    const stdout = await run(name);
    for (const pattern of expected[name]!) expect(stdout).toMatch(pattern);
  });

  it("14-remote-server.ts searches over a server", async () => {
    const reply = ({ messages }: ChatRequest) => {
      const asked = messages.findLast(({ role }) => role === "user")!.content.match(/\[[\d, ]+\](?!.*\[)/s)![0];
      const begun = messages.at(-1)!.role === "assistant" ? messages.at(-1)!.content : "";
      return `[${asked.match(/\d+/g)!.sort().join(", ")}]`.slice(begun.length);
    };
    await using server = await OpenAiServer.start({ reply });
    const stdout = await run("14-remote-server.ts", { DEFTREE_SERVER_URL: server.url });
    expect(stdout).toMatch(/^solved: \[\d.*\]\n\d+ thoughts, \d+ tokens$/m);
    expect(server.requests.length).toBeGreaterThan(0);
  });
});
