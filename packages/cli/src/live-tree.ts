import { emptyTree, growTree, pathTo, type SearchEvent, type Thought, type ThoughtTree } from "@deftree/search";
import { createLogUpdate } from "log-update";
import pc from "picocolors";
import type { Output } from "./output.js";

/** Least time between two drawings: often enough to watch, seldom enough to cost nothing. */
const redrawMs = 80;

/**
 * Shows a search as it grows: on a terminal the path that was kept and the thoughts of the level being grown, redrawn in
 * place; elsewhere one plain line for each level.
 */
export class LiveTree {
  private readonly tree: ThoughtTree = emptyTree();
  private readonly draw: ReturnType<typeof createLogUpdate> | undefined;
  private drawnAt = 0;
  private keptAtLevel: number[] = [];

  constructor(
    private readonly title: string,
    private readonly output: Output,
  ) {
    if (output.isTerminal) this.draw = createLogUpdate(process.stdout);
  }

  show<State, Answer>(event: SearchEvent<State, Answer>): void {
    growTree(this.tree, event as SearchEvent);
    if (event.type === "level:selected") {
      this.keptAtLevel = event.kept;
      this.levelLine(event.depth);
    }
    if (this.draw && performance.now() - this.drawnAt > redrawMs) {
      this.drawnAt = performance.now();
      this.draw(this.lines().join("\n"));
    }
  }

  /** Replaces the drawing by one line. */
  finish(summary: string): void {
    this.draw?.clear();
    this.draw?.done();
    this.output.line(summary);
  }

  private levelLine(depth: number): void {
    if (this.draw || this.output.json) return;
    const level = this.tree.thoughts.filter((thought) => thought.depth === depth);
    const best = this.tree.thoughts[this.keptAtLevel[0] ?? -1];
    const dead = level.filter((thought) => thought.pruneReason === "hopeless" || thought.pruneReason === "unsolved");
    this.output.line(
      `  level ${depth}: ${level.length} thoughts, ${dead.length} wrong, kept ${this.keptAtLevel.length}` +
        (best ? `; best ends in …${oneLine(best.text, 28)} (score ${best.score ?? "-"})` : ""),
    );
  }

  private lines(): string[] {
    const { thoughts } = this.tree;
    const deepest = thoughts.reduce((depth, thought) => Math.max(depth, thought.depth), 0);
    const level = thoughts.filter((thought) => thought.depth === deepest);
    const parent = level[0]?.parent ?? 0;
    const path = parent > 0 ? pathTo(this.tree, parent) : [];
    const room = Math.max(4, (process.stdout.rows ?? 24) - path.length - 3);
    const width = (process.stdout.columns ?? 80) - 2;
    const lines = [pc.bold(this.title)];
    path.forEach((thought, i) => {
      lines.push(`${" ".repeat(Math.min(i, 12))}└ ${describe(thought, width - Math.min(i, 12) - 2)}`);
    });
    const indent = " ".repeat(Math.min(path.length, 12));
    for (const thought of level.slice(-room)) lines.push(`${indent}├ ${describe(thought, width - indent.length - 2)}`);
    return lines;
  }
}

function describe(thought: Thought, width: number): string {
  const mark = marks(thought);
  const text = oneLine(thought.text, Math.max(8, width - 24));
  return `${mark} ${text}${thought.score === undefined ? "" : pc.dim(` ${thought.score}`)}`;
}

function marks(thought: Thought): string {
  switch (thought.status) {
    case "growing":
      return pc.yellow("…");
    case "pruned":
      return thought.pruneReason === "outscored" || thought.pruneReason === "duplicate" ? pc.dim("-") : pc.red("x");
    case "solution":
      return pc.green("*");
    default:
      return pc.green("+");
  }
}

/** The end of a text, on one line. */
function oneLine(text: string, width: number): string {
  const flat = text.replace(/\s+/g, " ").trim();
  return flat.length <= width ? flat : flat.slice(flat.length - width);
}
