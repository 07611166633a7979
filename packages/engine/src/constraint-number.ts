/** JSON numbers within bounds, compared digit by digit. */
import { type Automaton, automatonOf, intersect, multipleAutomaton } from "./constraint-automaton.js";
import { plainCharacter, type Rules } from "./constraint-grammar.js";
import { parseRegex, patternExpression } from "./constraint-regex.js";
import type { NativeExpression } from "./native-addon.js";

export interface NumberBounds {
  isInteger: boolean;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  /** A whole number. */
  multipleOf?: number;
}

// At most 15 digits: so many survive as a double, in their order, and numbers come to an end.
const anyInteger = "0|-?[1-9]\\d{0,14}";
const anyNumber = "-?(0|[1-9]\\d{0,14})(\\.\\d{1,15})?([eE][+-]?\\d{1,2})?";
const anyPlainNumber = "-?(0|[1-9]\\d{0,8})(\\.\\d{1,6})?|-?[1-9]\\d{9,14}";

/** @throws DeftreeError E_BAD_ARGUMENT for a divisor that is too large. */
export function numberExpression(bounds: NumberBounds, rules: Rules): NativeExpression {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = bounds;
  const compared: string[] = [];
  if (minimum !== undefined) compared.push(atLeast(minimum, false));
  if (exclusiveMinimum !== undefined) compared.push(atLeast(exclusiveMinimum, true));
  if (maximum !== undefined) compared.push(atMost(maximum, false));
  if (exclusiveMaximum !== undefined) compared.push(atMost(exclusiveMaximum, true));
  const isWhole = bounds.isInteger || multipleOf !== undefined;
  if (compared.length === 0 && multipleOf === undefined) {
    return patternExpression(parse(isWhole ? anyInteger : anyNumber), plainCharacter);
  }
  const automata: Automaton[] = [isWhole ? anyInteger : anyPlainNumber, ...compared].map((source) =>
    automatonOf(parse(source)),
  );
  if (multipleOf !== undefined) automata.push(multipleAutomaton(multipleOf));
  return intersect(automata, plainCharacter, rules);
}

function parse(source: string) {
  return parseRegex(source, { flags: "u", match: "whole" });
}

/** The digits before and after the point of |value|; "0" and "" for zero. */
function decimalOf(value: number): { whole: string; fraction: string } {
  const [mantissa, exponent] = Math.abs(value).toExponential().split("e") as [string, string];
  const digits = mantissa.replace(".", "");
  const point = Number(exponent) + 1;
  const whole = point <= 0 ? "0" : digits.slice(0, point).padEnd(point, "0");
  const fraction = point <= 0 ? "0".repeat(-point) + digits : digits.slice(point);
  return { whole, fraction: fraction.replace(/0+$/, "") };
}

function atLeast(bound: number, isOpen: boolean): string {
  const size = decimalOf(bound);
  if (bound > 0) return largerThan(size, isOpen);
  return `${bound === 0 && isOpen ? largerThan(size, true) : "\\d+(\\.\\d+)?"}|-(${smallerThan(size, isOpen)})`;
}

function atMost(bound: number, isOpen: boolean): string {
  const size = decimalOf(bound);
  if (bound < 0) return `-(${largerThan(size, isOpen)})`;
  return `${smallerThan(size, isOpen)}|-(${bound === 0 && isOpen ? largerThan(size, true) : "\\d+(\\.\\d+)?"})`;
}

// Of numbers without a sign and without leading zeros. A class without members matches nothing.
const never = "[]";

function largerThan({ whole, fraction }: { whole: string; fraction: string }, isOpen: boolean): string {
  const wholes = [`\\d{${whole.length + 1},}`];
  for (const [i, digit] of [...whole].entries()) {
    wholes.push(`${whole.slice(0, i)}${digitsAbove(digit)}\\d{${whole.length - i - 1}}`);
  }
  const fractions = [...fraction].map((digit, i) => `\\.${fraction.slice(0, i)}${digitsAbove(digit)}\\d*`);
  if (isOpen) fractions.push(`\\.${fraction}\\d*[1-9]\\d*`);
  else fractions.push(fraction === "" ? "(\\.\\d+)?" : `\\.${fraction}\\d*`);
  return `(${wholes.join("|")})(\\.\\d+)?|${whole}(${fractions.join("|")})`;
}

function smallerThan({ whole, fraction }: { whole: string; fraction: string }, isOpen: boolean): string {
  const wholes = whole.length > 1 ? [`\\d{1,${whole.length - 1}}`] : [];
  for (const [i, digit] of [...whole].entries()) {
    wholes.push(`${whole.slice(0, i)}${digitsBelow(digit)}\\d{${whole.length - i - 1}}`);
  }
  const fractions = [...fraction].flatMap((digit, i) => [
    `\\.${fraction.slice(0, i)}${digitsBelow(digit)}\\d*`,
    i === 0 ? "" : `\\.${fraction.slice(0, i)}`,
  ]);
  if (!isOpen) fractions.push(fraction === "" ? "(\\.0+)?" : `\\.${fraction}0*`);
  if (fractions.length === 0) fractions.push(never);
  return `(${wholes.join("|")})(\\.\\d+)?|${whole}(${fractions.join("|")})`;
}

function digitsAbove(digit: string): string {
  return digit === "9" ? never : `[${Number(digit) + 1}-9]`;
}

function digitsBelow(digit: string): string {
  return digit === "0" ? never : `[0-${Number(digit) - 1}]`;
}
