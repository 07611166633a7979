/** Finite automata over characters, and what several of them accept at once: patterns together, lengths, multiples. */
import { type CharacterSet, intersection } from "./constraint-characters.js";
import { choice, empty, nothing, type Rules, sequence } from "./constraint-grammar.js";
import type { Pattern } from "./constraint-regex.js";
import { DeftreeError } from "./errors.js";
import type { NativeExpression } from "./native-addon.js";

const maxStates = 20_000;

interface Edge {
  set: CharacterSet;
  to: number;
}

/** A nondeterministic automaton over characters: it starts in state 0 and has no empty moves. */
export interface Automaton {
  edges: Edge[][];
  accepts: boolean[];
}

/**
 * @returns what all of them accept, as rules: one a state.
 * @throws DeftreeError E_BAD_ARGUMENT when that takes too many states.
 */
export function intersect(
  automata: readonly Automaton[],
  character: (set: CharacterSet) => NativeExpression,
  rules: Rules,
): NativeExpression {
  const { edges, accepts } = product(automata);
  const isLive = liveStates(edges, accepts);
  if (!isLive[0]) return nothing;
  const states = edges.map((_, state) => (isLive[state] ? rules.reserve() : undefined));
  for (const [state, own] of states.entries()) {
    const ways = edges[state]!.filter(({ to }) => isLive[to]).map(({ set, to }) =>
      sequence(character(set), states[to]!.rule),
    );
    own?.define(choice(...ways, ...(accepts[state] ? [empty] : [])));
  }
  return states[0]!.rule;
}

/** Thompson's construction, then without its empty moves. */
export function automatonOf(pattern: Pattern): Automaton {
  const moves: { set?: CharacterSet; to: number }[][] = [];
  const newState = () => {
    if (moves.length >= maxStates) throw tooLarge();
    return moves.push([]) - 1;
  };
  const connect = (part: Pattern, from: number): number => {
    if ("set" in part) {
      const to = newState();
      moves[from]!.push({ set: part.set, to });
      return to;
    }
    if ("sequence" in part) return part.sequence.reduce((at, each) => connect(each, at), from);
    const end = newState();
    if ("choice" in part) {
      for (const each of part.choice) moves[connect(each, from)]!.push({ to: end });
      return end;
    }
    let at = from;
    for (let run = 0; run < part.min; run++) at = connect(part.repeat, at);
    if (part.max === Number.POSITIVE_INFINITY) {
      const loop = newState();
      moves[at]!.push({ to: loop });
      moves[connect(part.repeat, loop)]!.push({ to: loop });
      moves[loop]!.push({ to: end });
      return end;
    }
    for (let run = part.min; run < part.max; run++) {
      moves[at]!.push({ to: end });
      at = connect(part.repeat, at);
    }
    moves[at]!.push({ to: end });
    return end;
  };
  const start = newState();
  const end = connect(pattern, start);
  const reach = (state: number): Set<number> => {
    const reached = new Set([state]);
    for (const each of reached) for (const { set, to } of moves[each]!) if (!set) reached.add(to);
    return reached;
  };
  const reached = moves.map((_, state) => [...reach(state)]);
  return {
    edges: reached.map((states) =>
      states.flatMap((state) => moves[state]!.filter((move): move is Edge => move.set !== undefined)),
    ),
    accepts: reached.map((states) => states.includes(end)),
  };
}

/** Texts of `min` to `max` characters. */
export function lengthAutomaton(min: number, max: number): Automaton {
  const last = max === Number.POSITIVE_INFINITY ? min : max;
  if (last >= maxStates) throw tooLarge();
  const any: CharacterSet = [0, 0x10ffff];
  const edges = Array.from({ length: last + 1 }, (_, count): Edge[] =>
    count < last ? [{ set: any, to: count + 1 }] : max === last ? [] : [{ set: any, to: count }],
  );
  return { edges, accepts: edges.map((_, count) => count >= min) };
}

/** Whole numbers without a fraction, as JSON writes them, that are multiples of `divisor`: a state for each remainder. */
export function multipleAutomaton(divisor: number): Automaton {
  if (divisor >= maxStates) throw tooLarge();
  const remainders = 2; // where their states begin, behind the start and the sign
  const digitsFrom = (remainder: number): Edge[] =>
    Array.from({ length: 10 }, (_, digit) => ({
      set: [0x30 + digit, 0x30 + digit],
      to: remainders + ((10 * remainder + digit) % divisor),
    }));
  const edges = [[{ set: [0x2d, 0x2d], to: 1 }, ...digitsFrom(0)], digitsFrom(0)];
  for (let remainder = 0; remainder < divisor; remainder++) edges.push(digitsFrom(remainder));
  return { edges, accepts: edges.map((_, state) => state === remainders) };
}

/** States are tuples of one state each, made as they are reached. */
function product(automata: readonly Automaton[]): Automaton {
  const tuples: number[][] = [automata.map(() => 0)];
  const numbers = new Map([[tuples[0]!.join(), 0]]);
  const edges: Edge[][] = [];
  for (const tuple of tuples) {
    let common: { set: CharacterSet; to: number[] }[] = [{ set: [0, 0x10ffff], to: [] }];
    for (const [i, { edges: own }] of automata.entries()) {
      common = common.flatMap(({ set, to }) =>
        own[tuple[i]!]!.map((edge) => ({ set: intersection(set, edge.set), to: [...to, edge.to] })).filter(
          (edge) => edge.set.length > 0,
        ),
      );
    }
    edges.push(
      common.map(({ set, to }) => {
        const key = to.join();
        const known = numbers.get(key);
        if (known !== undefined) return { set, to: known };
        if (tuples.length >= maxStates) throw tooLarge();
        numbers.set(key, tuples.length);
        return { set, to: tuples.push(to) - 1 };
      }),
    );
  }
  return { edges, accepts: tuples.map((tuple) => tuple.every((state, i) => automata[i]!.accepts[state])) };
}

/** Those from which an accepting state can be reached. */
function liveStates(edges: readonly Edge[][], accepts: readonly boolean[]): boolean[] {
  const sources: number[][] = edges.map(() => []);
  for (const [from, own] of edges.entries()) for (const { to } of own) sources[to]!.push(from);
  const isLive = [...accepts];
  const todo = [...accepts.keys()].filter((state) => accepts[state]);
  for (let state = todo.pop(); state !== undefined; state = todo.pop()) {
    for (const source of sources[state]!) {
      if (isLive[source]) continue;
      isLive[source] = true;
      todo.push(source);
    }
  }
  return isLive;
}

function tooLarge(): DeftreeError {
  return new DeftreeError(
    "E_BAD_ARGUMENT",
    `it takes more than ${maxStates} states, the product of patterns, lengths and divisors; say less, or less exactly`,
    { figures: { maxStates } },
  );
}
