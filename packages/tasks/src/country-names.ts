/** Country names in running text: which there are, and where they stand. */
import { countries } from "countries-list";

/**
 * Countries of the generated passages, each with a word that is no mention of it: its adjective, or a longer name that
 * holds the shorter one (Niger and Nigeria, Guinea and Papua New Guinea, Sudan and South Sudan).
 */
export const PASSAGE_COUNTRIES: readonly { readonly name: string; readonly adjective: string }[] = [
  ["NO", "Norwegian"],
  ["SE", "Swedish"],
  ["DK", "Danish"],
  ["FI", "Finnish"],
  ["CA", "Canadian"],
  ["US", "American"],
  ["MX", "Mexican"],
  ["BR", "Brazilian"],
  ["AR", "Argentine"],
  ["CL", "Chilean"],
  ["PE", "Peruvian"],
  ["CO", "Colombian"],
  ["CU", "Cuban"],
  ["PT", "Portuguese"],
  ["ES", "Spanish"],
  ["FR", "French"],
  ["DE", "German"],
  ["IT", "Italian"],
  ["GR", "Greek"],
  ["PL", "Polish"],
  ["HU", "Hungarian"],
  ["RO", "Romanian"],
  ["IE", "Irish"],
  ["GB", "British"],
  ["CH", "Swiss"],
  ["AT", "Austrian"],
  ["RU", "Russian"],
  ["UA", "Ukrainian"],
  ["CN", "Chinese"],
  ["JP", "Japanese"],
  ["KR", "South Korean"],
  ["IN", "Indian"],
  ["PK", "Pakistani"],
  ["TH", "Thai"],
  ["VN", "Vietnamese"],
  ["ID", "Indonesian"],
  ["AU", "Australian"],
  ["NZ", "New Zealander"],
  ["EG", "Egyptian"],
  ["MA", "Moroccan"],
  ["KE", "Kenyan"],
  ["ZA", "South African"],
  ["NE", "Nigerien"],
  ["NG", "Nigerian"],
  ["GN", "Guinean"],
  ["PG", "Papuan"],
  ["SD", "Sudanese"],
  ["SS", "South Sudanese"],
  ["OM", "Omani"],
  ["ML", "Malian"],
].map(([code, adjective]) => ({ name: countries[code as keyof typeof countries].name, adjective: adjective! }));

const ALL_NAMES = Object.values(countries).map(({ name }) => name);

/**
 * Mentions of countries in `text`, in order. A mention is a country's whole English name as countries-list spells it, not part
 * of a longer word or name: "Nigeria" is no mention of Niger, "South Sudan" none of Sudan, "Norwegian" none of Norway.
 */
export function findCountries(text: string): string[] {
  return text.match(namePattern()) ?? [];
}

/** How often each country is mentioned, in the order of first mention. */
export function countNames(names: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

let pattern: RegExp | undefined;

function namePattern(): RegExp {
  // The longest name that matches at a place comes first.
  pattern ??= new RegExp(
    `(?<![\\p{L}-])(?:${[...ALL_NAMES]
      .sort((a, b) => b.length - a.length)
      .map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
      .join("|")})(?![\\p{L}-])`,
    "gu",
  );
  return pattern;
}
