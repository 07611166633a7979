import { describe, expect, it } from "vitest";
import { TextStream } from "./text-stream.js";

const bytes = (text: string) => Buffer.from(text, "utf8");

/** Pushes the pieces and returns what became final with each, then with the end. */
function stream(
  pieces: Uint8Array[],
  stops: string[] = [],
): { texts: string[]; end: string; stop: number | undefined } {
  const text = new TextStream(stops.map(bytes));
  const texts = pieces.map((piece) => text.push(piece));
  return { texts, end: text.flush(), stop: text.match?.index };
}

describe("TextStream", () => {
  it("waits for whole characters", () => {
    const [a, b, c, d] = bytes("😀");
    expect(stream([Uint8Array.of(a!, b!), Uint8Array.of(c!), Uint8Array.of(d!)]).texts).toEqual(["", "", "😀"]);
  });

  it("gives U+FFFD for an incomplete character at the end and for bytes that are none", () => {
    expect(stream([bytes("ä").subarray(0, 1)])).toMatchObject({ texts: [""], end: "\uFFFD" });
    expect(stream([Uint8Array.of(0xff), bytes("a")]).texts.join("")).toBe("\uFFFDa");
  });

  it("keeps a byte order mark", () => {
    expect(stream([bytes("\uFEFFa")]).texts).toEqual(["\uFEFFa"]);
  });

  it("cuts at a stop string that straddles pieces", () => {
    const { texts, end, stop } = stream([bytes("one tw"), bytes("o thr"), bytes("ee")], ["x", "two three"]);
    expect(texts.join("") + end).toBe("one ");
    expect(texts[0]).toBe("one ");
    expect(stop).toBe(1);
  });

  it("gives back what only looked like a stop string", () => {
    const { texts, end } = stream([bytes("a\n"), bytes("b\n")], ["\n\n"]);
    expect(texts).toEqual(["a", "\nb"]);
    expect(end).toBe("\n");
  });

  it("cuts at the first of several stop strings in one piece", () => {
    expect(stream([bytes("abcd")], ["cd", "bc"])).toMatchObject({ texts: ["a"], stop: 1 });
  });

  it("agrees with the whole text for any cut", () => {
    const whole = "näive 日本 😀 ENEND END tail";
    const stops = ["END", "EN!"];
    const expected = whole.slice(0, whole.indexOf("END"));
    const all = bytes(whole);
    for (let first = 0; first <= all.length; first++) {
      for (const second of [first, Math.min(all.length, first + 1), Math.min(all.length, first + 3)]) {
        const { texts, end } = stream(
          [all.subarray(0, first), all.subarray(first, second), all.subarray(second)],
          stops,
        );
        expect(texts.join("") + end).toBe(expected);
      }
    }
  });
});
