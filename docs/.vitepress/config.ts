import { defineConfig } from "vitepress";
import api from "../api/typedoc-sidebar.json" with { type: "json" };

const guide = [
  { text: "Getting started", link: "/guide/getting-started" },
  { text: "Choosing a strategy", link: "/guide/strategies" },
  { text: "Choosing a model", link: "/guide/models" },
  { text: "In a LangChain agent", link: "/guide/agents" },
  { text: "The tree engine", link: "/guide/tree-engine" },
  { text: "Attention policies", link: "/guide/attention-policies" },
  { text: "Troubleshooting", link: "/guide/troubleshooting" },
];
const background = [
  { text: "Architecture", link: "/architecture" },
  { text: "The tree KV cache", link: "/kv-cache" },
  { text: "Tree attention", link: "/tree-attention" },
  { text: "On an NVIDIA GPU", link: "/cuda" },
  { text: "Tree speculation", link: "/speculation" },
  { text: "LangChain conformance", link: "/langchain-conformance" },
  { text: "Benchmarks", link: "/benchmarks" },
  { text: "Evaluation of the searches", link: "/evaluation" },
  { text: "Attention on an H100", link: "/benchmarks-cuda" },
  { text: "Decisions", link: "/decisions/" },
  { text: "Glossary", link: "/glossary" },
];

/** Out of docs/: such links lead into the repository, which this site is not. `pnpm links` checks them. */
const leavesSite = (href: string): boolean => /^(\.\.\/)+(native|packages|examples|tools|scripts|docs)\//.test(href);

export default defineConfig({
  title: "deftree",
  description: "Tree of Thoughts for LangChain.js on a local model, with a shared-prefix tree KV cache and DeFT attention",
  cleanUrls: true,
  rewrites: { "decisions/README.md": "decisions/index.md" },
  lastUpdated: false,
  ignoreDeadLinks: [(url) => leavesSite(url.replace(/^\.\//, ""))],
  themeConfig: {
    nav: [
      { text: "Guide", link: "/guide/getting-started" },
      { text: "API", link: "/api/" },
      { text: "Benchmarks", link: "/benchmarks" },
    ],
    sidebar: {
      "/api/": [{ text: "API", items: api }],
      "/": [
        { text: "Guide", items: guide },
        { text: "Background", items: background },
      ],
    },
    search: { provider: "local" },
    outline: [2, 3],
  },
  markdown: {
    config(md) {
      // A file of the repository is named, not linked.
      const openLink = md.renderer.rules.link_open!;
      md.renderer.rules.link_open = (tokens, at, options, env, self) => {
        const href = String(tokens[at]!.attrGet("href") ?? "");
        if (!leavesSite(href)) return openLink(tokens, at, options, env, self);
        tokens[at]!.attrs = [["title", href.replace(/^(\.\.\/)+/, "")]];
        return self.renderToken(tokens, at, options);
      };
    },
  },
});
