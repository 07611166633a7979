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

const numTexts = Number(process.env.DEFTREE_TEST_CONSTRAINTS ?? 120);
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
    let numRefused = 0;
    for (let first = 0; first < numTexts; first += 3) {
      const jsonSchema = randomSchema(randomIntegers(first));
      const validate = ajv.compile(jsonSchema);
      const seeds = [first, first + 1, first + 2];
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

function parse(text: string, schema: object): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return expect.fail(`no JSON: ${text} of ${JSON.stringify(schema)}`);
  }
}

export { refusal };
