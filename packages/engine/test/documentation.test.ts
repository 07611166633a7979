/** Whatever index.ts exports says in a comment what it is. */
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { describe, expect, it } from "vitest";

const indexFile = fileURLToPath(new URL("../src/index.ts", import.meta.url));
const configFile = fileURLToPath(new URL("../../../tsconfig.json", import.meta.url));
const { options } = ts.parseJsonConfigFileContent(ts.readConfigFile(configFile, ts.sys.readFile).config, ts.sys, ".");
const program = ts.createProgram([indexFile], options);
const checker = program.getTypeChecker();
const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(indexFile)!)!);

const resolve = (symbol: ts.Symbol) =>
  symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
const comment = (symbol: ts.Symbol) => ts.displayPartsToString(symbol.getDocumentationComment(checker));

describe("documentation", () => {
  it("finds the exports", () => {
    expect(exported.map(({ name }) => name)).toEqual(
      expect.arrayContaining(["Engine", "DeftreeError", "EngineBranch"]),
    );
  });

  it.each(exported.map((symbol) => [symbol.name, resolve(symbol)] as const))("%s has a comment", (_, symbol) => {
    expect(comment(symbol)).not.toBe("");
  });

  it("the methods of Engine have one, here or in the interface", () => {
    const engine = resolve(exported.find(({ name }) => name === "Engine")!);
    const type = checker.getDeclaredTypeOfSymbol(engine);
    const isMethod = (member: ts.Symbol) =>
      (member.flags & ts.SymbolFlags.Method) !== 0 && !/^[_#]/.test(ts.symbolName(member));
    const undocumented = checker
      .getPropertiesOfType(type)
      .filter((member) => isMethod(member) && comment(member) === "");
    expect(undocumented.map(({ name }) => name)).toEqual([]);
  });
});
