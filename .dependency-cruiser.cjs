// Imports run downwards only (docs/architecture.md): cli, examples -> eval -> bench, tasks -> langchain -> search; langchain -> engine.
const below = {
  search: [],
  engine: [],
  tasks: ["search"],
  langchain: ["search", "engine"],
  bench: ["search", "engine", "langchain", "tasks"],
  eval: ["search", "engine", "tasks"],
  cli: ["search", "engine", "langchain", "tasks", "bench", "eval"],
};

module.exports = {
  forbidden: [
    { name: "no-circular", severity: "error", from: {}, to: { circular: true } },
    {
      name: "langchain-only-in-langchain",
      comment: "packages/langchain is the one place that knows LangChain; cli, bench and examples may use its types",
      severity: "error",
      from: { path: "^packages/(engine|search|tasks|eval)/" },
      to: { path: "node_modules/@?langchain" },
    },
    {
      name: "addon-only-in-engine",
      severity: "error",
      from: { path: "^packages/", pathNot: "^packages/engine/" },
      to: { path: "\\.node$|packages/engine/src/(native-addon|addon-loader)" },
    },
    ...Object.entries(below).map(([name, allowed]) => ({
      name: `${name}-downwards`,
      severity: "error",
      from: { path: `^packages/${name}/src/` },
      to: { path: "^packages/([^/]+)/", pathNot: [`^packages/(${[name, "model-mini", ...allowed].join("|")})/`] },
    })),
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "(dist|build)/" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["@deftree/source", "import", "types"] },
  },
};
