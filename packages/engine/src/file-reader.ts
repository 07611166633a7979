/** Bounded reads of model files. Nothing here allocates more than the file is known to hold. */
import { open, readFile, stat } from "node:fs/promises";
import { badModel } from "./bad-model.js";
import { DeftreeError } from "./errors.js";

/** Size of a regular file in bytes. @throws E_MODEL_NOT_FOUND when there is none, E_BAD_MODEL when it is something else. */
export async function fileSize(file: string): Promise<number> {
  const info = await stat(file).catch((cause: NodeJS.ErrnoException) => {
    throw unreadable(file, cause);
  });
  if (!info.isFile()) throw badModel(file, "is not a regular file");
  return info.size;
}

/** A whole small file. @throws E_BAD_MODEL above `maxBytes`, before reading. */
export async function readWholeFile(file: string, maxBytes: number): Promise<Buffer> {
  const size = await fileSize(file);
  if (size > maxBytes) {
    throw badModel(file, `has ${size} bytes; at most ${maxBytes} are read`, { figures: { size, maxBytes } });
  }
  return readFile(file).catch((cause: NodeJS.ErrnoException) => {
    throw unreadable(file, cause);
  });
}

/** `length` bytes from `offset`. The caller has checked the range against the size. @throws E_BAD_MODEL when they are not there. */
export async function readRange(file: string, offset: number, length: number): Promise<Buffer> {
  const handle = await open(file, "r").catch((cause: NodeJS.ErrnoException) => {
    throw unreadable(file, cause);
  });
  try {
    const buffer = Buffer.allocUnsafe(length);
    const { bytesRead } = await handle.read(buffer, 0, length, offset);
    if (bytesRead !== length) {
      throw badModel(file, `ends after ${offset + bytesRead} bytes, ${length - bytesRead} before its header says`);
    }
    return buffer;
  } finally {
    await handle.close();
  }
}

function unreadable(file: string, cause: NodeJS.ErrnoException): DeftreeError {
  const missing = cause.code === "ENOENT" || cause.code === "ENOTDIR";
  return missing
    ? new DeftreeError("E_MODEL_NOT_FOUND", `${file} does not exist`, { cause })
    : badModel(file, `cannot be read: ${cause.message}`, { cause });
}
