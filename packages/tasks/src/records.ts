/** Users' data: rows of CSV with a header, or of JSON Lines with the same names. */
import { parse as parseCsv } from "csv-parse/sync";

export type DataFormat = "csv" | "jsonl";

/** One row as text fields. A JSON list becomes "[a, b]", as the CSV files write it. */
export type DataRecord = Readonly<Record<string, string>>;

/** A row of users' data: an instance of the task, or why it is none. Rows count from 1, the header left out. */
export type TaskRow<Instance> =
  | { readonly row: number; readonly instance: Instance; readonly error?: undefined }
  | { readonly row: number; readonly instance?: undefined; readonly error: string };

/**
 * Reads each row by itself: one that cannot be read tells why, and the others go on.
 * @throws RangeError when the text as a whole is no CSV.
 */
export function readRows<Instance>(
  text: string,
  format: DataFormat,
  readRow: (record: DataRecord, row: number) => Instance,
): TaskRow<Instance>[] {
  const rows = format === "csv" ? csvRecords(text).map((record) => () => record) : jsonLines(text);
  return rows.map((record, index) => {
    const row = index + 1;
    try {
      return { row, instance: readRow(record(), row) };
    } catch (error) {
      return { row, error: error instanceof Error ? error.message : String(error) };
    }
  });
}

/** All rows of a CSV file. @throws RangeError, naming the row, on the first that cannot be read. */
export function readCsv<Instance>(text: string, readRow: (record: DataRecord, row: number) => Instance): Instance[] {
  return csvRecords(text).map((record, index) => readRow(record, index + 1));
}

/** The error of a row that is not what its task needs. */
export function badRow(row: number, wanted: string, record: DataRecord): RangeError {
  return new RangeError(`Row ${row} is not ${wanted}: ${JSON.stringify(record).slice(0, 200)}`);
}

function csvRecords(text: string): Record<string, string>[] {
  try {
    return parseCsv(text, { columns: true, bom: true, skip_empty_lines: true });
  } catch (cause) {
    throw new RangeError(`The data is no CSV: ${(cause as Error).message}`, { cause });
  }
}

function jsonLines(text: string): (() => DataRecord)[] {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.map((line, index) => () => {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      value = undefined;
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new RangeError(`Row ${index + 1} is no JSON object: ${line.slice(0, 200)}`);
    }
    return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, fieldText(field)]));
  });
}

function fieldText(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(fieldText).join(", ")}]`;
  return typeof value === "string" ? value : (JSON.stringify(value) ?? "");
}
