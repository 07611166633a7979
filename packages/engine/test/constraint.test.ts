/**
 * Constrained decodes on a model of random weights at temperature 1.5, against validators that know nothing of them: ajv for
 * schemas, JavaScript's own RegExp for expressions. `DEFTREE_TEST_CONSTRAINTS=1000` draws as many texts of each.
 */
import path from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type BranchEngine, type Constraint, type DecodeOptions, Engine, type EngineBranch } from "../src/index.js";
import { randomIntegers, randomRegex, randomSchema } from "./random-schema.js";
import { temporaryFolder } from "./temporary-folder.js";
import { testDevice } from "./test-device.js";
import { writeTinyModel } from "./tiny-model.js";

const numTexts = Number(process.env.DEFTREE_TEST_CONSTRAINTS ?? 90);
const folder = writeTinyModel(path.join(temporaryFolder(), "tiny"));
const ajv = new Ajv2020({ strict: false });
addFormats.default(ajv);

let engine: BranchEngine;
let prompt: EngineBranch;
beforeAll(async () => {
  engine = await Engine.load(folder, { device: testDevice, threads: 2, kvTokens: 8192 });
  prompt = engine.branch();
  await prompt.extend("Write something: ");
});
afterAll(() => engine?.dispose());

async function decode(constraint: Constraint, options: DecodeOptions = {}) {
  using branch = prompt.fork(1)[0]!;
  return await branch.decode({ temperature: 1.5, maxTokens: 150, ...options, constraint });
}

const refusal = (constraint: Constraint, options: DecodeOptions = {}) =>
  decode(constraint, options).then(
    ({ text }) => expect.fail(`it gave ${text}`),
    (error) => error as { code: string; message: string; figures: Record<string, number> },
  );

describe("constraint", () => {
  it("gives a value of the schema every time", { timeout: 600_000 }, async () => {
    let [numDrawn, numRefused] = [0, 0];
    for (let number = 0; numDrawn < numTexts; number++) {
      const jsonSchema = randomSchema(randomIntegers(number));
      const validate = ajv.compile(jsonSchema);
      const seeds = [0, 1, 2].map((seed) => 3 * number + seed);
      const texts = await Promise.all(seeds.map((seed) => decode({ jsonSchema }, { seed }))).catch((error) => {
        // Too long for the tokens, contradictory, or of branches that may overlap: said so, and nothing else.
        expect(error).toMatchObject({ code: "E_BAD_ARGUMENT" });
        numRefused++;
        return [];
      });
      for (const { text } of texts) {
        const isValid = validate(parse(text, jsonSchema));
        if (!isValid) expect.fail(`${text} ${ajv.errorsText(validate.errors)} ${JSON.stringify(jsonSchema)}`);
      }
      numDrawn += texts.length;
    }
    expect(numRefused).toBeLessThan(numTexts / 3 / 4);
  });

  it("gives a text of the expression every time", { timeout: 600_000 }, async () => {
    const texts = Array.from({ length: numTexts }, async (_, seed) => {
      const regex = randomRegex(randomIntegers(seed));
      const { text } = await decode({ regex }, { seed, maxTokens: 60 });
      if (!new RegExp(`^(?:${regex})$`, "u").test(text)) expect.fail(`${JSON.stringify(text)} of /${regex}/u`);
    });
    await Promise.all(texts);
  });
});

describe("a constrained branch", () => {
  const list = { type: "array", items: { type: "integer", minimum: 0, maximum: 999 }, minItems: 2, maxItems: 12 };

  it("forks in the middle, and each child goes on to an end of its own", async () => {
    using trunk = prompt.fork(1)[0]!;
    const begun = await trunk.decode({
      constraint: { jsonSchema: list, mayStayOpen: true },
      maxTokens: 5,
      temperature: 1,
      seed: 3,
    });
    expect(begun.finishReason).toBe("length");
    const children = trunk.fork(6);
    const ended = await Promise.all(
      children.map((child) => child.decode({ constraint: { continue: true }, temperature: 1.5, maxTokens: 60 })),
    );
    const values = ended.map(({ text }) => JSON.parse(begun.text + text) as number[]);
    for (const value of values) expect(ajv.validate(list, value)).toBe(true);
    expect(new Set(values.map(String)).size).toBeGreaterThan(1);
    for (const child of children) child.prune();
  });

  it("draws what a branch alone draws, beside others of other languages", async () => {
    const languages: Constraint[] = [{ jsonSchema: list }, { regex: "(?:[a-z]+ ){3}end" }, { jsonSchema: true }];
    const greedy = (branch: EngineBranch, constraint?: Constraint) => branch.decode({ constraint, maxTokens: 60 });
    const branches = prompt.fork(languages.length + 1);
    const together = await Promise.all(branches.map((branch, i) => greedy(branch, languages[i])));
    for (const branch of branches) branch.prune();
    await using alone = await Engine.load(folder, { device: testDevice, threads: 1 });
    using root = alone.branch();
    await root.extend("Write something: ");
    for (const [i, { tokens }] of together.entries()) {
      using branch = root.fork(1)[0]!;
      expect((await greedy(branch, languages[i])).tokens).toEqual(tokens);
    }
  });

  it("keeps to it with stop strings, top-k, top-p, penalties and log-probabilities", async () => {
    const regex = "[ab]{20}(!|\\?)[cd]*";
    for (const options of [{ topK: 1 }, { topP: 0.1 }, { minP: 0.5 }, { repetitionPenalty: 3 }, { logprobs: 3 }]) {
      const { text, logprobs } = await decode({ regex }, { ...options, maxTokens: 30 });
      expect(text).toMatch(/^[ab]{20}[!?][cd]*$/);
      for (const logprob of logprobs ?? []) expect(logprob).toBeLessThanOrEqual(0);
    }
    const cut = await decode({ regex }, { stop: ["!", "?"] });
    expect(cut).toMatchObject({ finishReason: "stop", text: expect.stringMatching(/^[ab]{20}$/) });
    expect(["!", "?"]).toContain(cut.stopString);
  });

  it("says why a language cannot be enforced", async () => {
    const reason = async (constraint: Constraint, options?: DecodeOptions) =>
      (await refusal(constraint, options)).message;
    const schema = (jsonSchema: object) => reason({ jsonSchema });
    expect(await schema({ properties: { a: { items: { not: {} } } } })).toMatch(/\/properties\/a\/items\/not: .*"not"/);
    expect(await schema({ type: "string", pattern: "(?=a)b" })).toMatch(/\/pattern: .*lookahead \(\?=a\)/);
    expect(await schema({ type: "string", format: "phone" })).toMatch(/\/format: "phone" is not enforced; .*date-time/);
    expect(await schema({ $ref: "other.json" })).toMatch(/\/\$ref: "other.json" lies outside/);
    expect(await schema({ oneOf: [{ type: "integer" }, { minimum: 3 }] })).toMatch(
      /\/oneOf: branches 0 and 1 may match/,
    );
    expect(await schema({ type: "number", multipleOf: 0.1 })).toMatch(/\/multipleOf: only whole numbers/);
    expect(await schema({ type: "array", uniqueItems: true })).toMatch(/\/uniqueItems/);
    expect(await schema({ type: "string", maxLength: 1, minLength: 2 })).toMatch(/no text fits/);
    expect(await schema({ $ref: "#" })).toMatch(/no text fits|without end/);
    expect(await schema({ type: "thing" })).toMatch(/\/type: "thing" is no type/);
    expect(await reason({ regex: "(a)\\1" })).toMatch(/backreference \\1/);
    expect(await reason({ regex: "a\\b" })).toMatch(/word boundary/);
    expect(await reason({ regex: "(" })).toMatch(/is no regular expression/);
    expect(await reason({ regex: "a".repeat(30_000) })).toMatch(/30000 characters long/);
    expect(await reason({ regex: "\\p{L}".repeat(2000) })).toMatch(/too large/);
    expect(await reason({ regex: "(a?b?c?){9}".repeat(2000) })).toMatch(/too ambiguous/);
    expect(await schema({ enum: Array.from({ length: 20_000 }, (_, i) => i) })).toMatch(
      /\/enum: it lists 20000 values/,
    );
    expect(await reason({ continue: true })).toMatch(/no constraint to go on with/);
    expect(await reason({} as Constraint)).toMatch(/constraint is one of/);
    expect(await reason({ regex: "a", jsonSchema: {} } as never)).toMatch(/constraint is one of/);
    const short = await refusal({ regex: "a{100}" }, { maxTokens: 20 });
    expect(short).toMatchObject({ code: "E_BAD_ARGUMENT", figures: { minTokens: 100, maxTokens: 20 } });
  });

  it("takes thousands of listed values", async () => {
    const values = Array.from({ length: 9000 }, (_, i) => `item ${i}`);
    expect(values).toContain(JSON.parse((await decode({ jsonSchema: { enum: values } })).text));
  });

  it("needs a model with text", async () => {
    await using random = await Engine.load("random:tiny", { device: testDevice });
    const branch = random.branch();
    await branch.extend([1, 2, 3]);
    await expect(branch.decode({ constraint: { regex: "a" } }).result).rejects.toMatchObject({
      code: "E_BAD_ARGUMENT",
    });
  });
});

function parse(text: string, schema: object): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return expect.fail(`no JSON: ${text} of ${JSON.stringify(schema)}`);
  }
}
