/**
 * Resuming a search from its saved events. A strategy's choices follow from what its thoughts said, so the search runs
 * again from its beginning with the thoughts, lists and verdicts of the log in place of the model's work; branches are
 * opened only where something new has to decode (see {@link LazyBranch}). What was under way when the log ended is
 * decoded again with its old seed. So the tree is the one that the search would have grown uninterrupted.
 */
import type { Verdict } from "./evaluator.js";
import type { SearchEvent, ThoughtId } from "./events.js";
import { LazyBranch } from "./lazy-branch.js";
import type { Place } from "./thought.js";
import type { DecodedThought, ThoughtBranch } from "./thought-model.js";

export type StartedEvent = Extract<SearchEvent, { type: "search:started" }>;
type ThoughtStarted = Extract<SearchEvent, { type: "thought:started" }>;

export class PastSearch {
  readonly #started = new Map<ThoughtId, ThoughtStarted>();
  readonly #decoded = new Map<ThoughtId, DecodedThought>();
  readonly #verdicts = new Map<ThoughtId, Verdict[]>();
  readonly #lists = new Map<number, { parts: string[]; tokens: number }>();

  /** @throws RangeError when `events` do not begin with the start of the search that `now` describes. */
  constructor(events: readonly SearchEvent[], now: StartedEvent) {
    checkSameSearch(events[0], now);
    for (const event of events) {
      if (event.type === "thought:started") this.#started.set(event.thought, event);
      if (event.type === "thought:finished" && event.finishReason !== "aborted") {
        this.#decoded.set(event.thought, event);
      }
      if (event.type === "thought:scored") {
        const verdicts = this.#verdicts.get(event.thought) ?? [];
        this.#verdicts.set(event.thought, [...verdicts, event]);
      }
      if (event.type === "parts:listed") this.#lists.set(event.question, event);
    }
  }

  /** What thought `id` said, put on its branch; undefined when it has to be decoded. */
  takeThought(id: ThoughtId, place: Place, branch: ThoughtBranch): DecodedThought | undefined {
    const decoded = this.#decoded.get(id);
    const started = this.#started.get(id);
    if (decoded === undefined || started === undefined || !(branch instanceof LazyBranch)) return undefined;
    if (started.parent !== place.parent || started.depth !== place.depth) {
      // Near the end of a budget a search may have gone another way: what it said after that does not belong here.
      this.#forgetFrom(id);
      return undefined;
    }
    branch.adopt(decoded);
    return decoded;
  }

  takeList(question: number): { parts: string[]; tokens: number } | undefined {
    const list = this.#lists.get(question);
    return list && { parts: list.parts, tokens: list.tokens };
  }

  /** The next verdict on each thought; undefined unless there is one on all. */
  takeVerdicts(ids: readonly ThoughtId[]): Verdict[] | undefined {
    if (!ids.every((id) => this.#verdicts.get(id)?.length)) return undefined;
    return ids.map((id) => this.#verdicts.get(id)!.shift()!);
  }

  #forgetFrom(id: ThoughtId): void {
    for (const later of [...this.#decoded.keys()].filter((thought) => thought >= id)) {
      this.#decoded.delete(later);
      this.#verdicts.delete(later);
    }
    this.#lists.clear();
  }
}

function checkSameSearch(first: SearchEvent | undefined, now: StartedEvent): void {
  if (first?.type !== "search:started") {
    throw new RangeError("cannot resume: the log does not begin with a search:started event");
  }
  for (const name of ["model", "problem", "strategy", "seed"] as const) {
    if (first[name] !== now[name]) {
      throw new RangeError(
        `cannot resume: the log's ${name} is ${show(first[name])}, this search's is ${show(now[name])}`,
      );
    }
  }
  if (first.fingerprint !== now.fingerprint) {
    throw new RangeError(
      `cannot resume: the log's problem "${now.problem}" has another prompt, or its strategy other settings or another evaluation`,
    );
  }
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? "missing";
}

/** One event as a line of a log (JSON Lines). */
export function formatEvent(event: SearchEvent<unknown, unknown>): string {
  return `${JSON.stringify(event)}\n`;
}

/**
 * The events of a log. An unfinished last line, as a crash leaves it, is left out.
 * @throws RangeError, naming the line, on any other that is no event.
 */
export function readEventLog(text: string): SearchEvent[] {
  const lines = text.split("\n");
  const whole = lines.slice(0, -1);
  const last = lines.at(-1)!;
  const events = whole.filter((line) => line.trim() !== "").map((line, i) => parseEvent(line, i + 1));
  try {
    if (last.trim() !== "") events.push(parseEvent(last, lines.length));
  } catch {
    // cut off
  }
  return events;
}

function parseEvent(line: string, number: number): SearchEvent {
  try {
    const event: unknown = JSON.parse(line);
    if (typeof event === "object" && event !== null && "type" in event) return event as SearchEvent;
  } catch {
    // told below
  }
  throw new RangeError(`line ${number} of the log is no event: ${line.slice(0, 200)}`);
}
