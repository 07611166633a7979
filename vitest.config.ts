import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["@deftree/source"] },
  ssr: { resolve: { conditions: ["@deftree/source"], externalConditions: ["@deftree/source"] } },
  test: {
    include: ["packages/*/{src,test}/**/*.test.ts", "examples/**/*.test.ts"],
    // Engine tests compute on all cores; two files at once would only take turns.
    pool: "forks",
    maxWorkers: 1,
    testTimeout: 60_000,
  },
});
