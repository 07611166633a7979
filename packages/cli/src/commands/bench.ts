import type { Command } from "commander";
import { addBenchAgents } from "./bench-agents.js";
import { addBenchAttention } from "./bench-attention.js";
import { addBenchConstraint } from "./bench-constraint.js";
import { addBenchDecode } from "./bench-decode.js";
import { addBenchPruning } from "./bench-pruning.js";
import { addBenchSearch } from "./bench-search.js";
import { addBenchSpeculation } from "./bench-speculation.js";

export function addBenchCommand(program: Command): void {
  const bench = program
    .command("bench")
    .description("measure; every benchmark prints a table and, last, one JSON line; Ctrl-C ends it with what it has");
  addBenchAttention(bench);
  addBenchDecode(bench);
  addBenchSearch(bench);
  addBenchPruning(bench);
  addBenchSpeculation(bench);
  addBenchConstraint(bench);
  addBenchAgents(bench);
}
