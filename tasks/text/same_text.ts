/**
 * Whether a corpus is the text that was packed: by contents, wherever its files are now and whenever they
 * were copied there.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { digestFile } from "../files/digest.ts";
import { keptStamp, regularFile } from "../files/read.ts";
import { sha256 } from "../files/seal.ts";
import { type CorpusFile, listCorpus } from "./corpus.ts";
import type { PackedFile, PackedManifest } from "./packed.ts";

/**
 * The files with what is in them.
 *
 * @param files as they were before they were read for something else
 * @throws {UserError} if one has changed since
 */
export async function withDigests(files: readonly CorpusFile[]): Promise<PackedFile[]> {
  const all: PackedFile[] = [];
  for (const file of files) {
    const sha256 = await digestFile(file.path);
    const { size, modified } = regularFile(file.path);
    if (size !== file.size || modified !== file.modified) {
      throw new UserError(
        `${file.path}: has changed while it was read; start again when it is whole`,
      );
    }
    all.push({ ...keptStamp(file), sha256 });
  }
  return all;
}

/** Whether two lists of files are the same text in the same order. */
export async function isSameText(
  then: readonly PackedFile[],
  now: readonly CorpusFile[],
): Promise<boolean> {
  if (then.length !== now.length) return false;
  for (const [i, file] of now.entries()) if (!await isSameFile(then[i], file)) return false;
  return true;
}

async function isSameFile(then: PackedFile, now: CorpusFile): Promise<boolean> {
  if (isUntouched(then, now)) return true;
  return then.size === now.size && then.sha256 === await digestFile(now.path);
}

/** Whether a file need not be read to know that it is the same. */
function isUntouched(then: PackedFile, now: CorpusFile): boolean {
  return then.path === now.path && then.size === now.size && then.modified === now.modified &&
    then.changed === now.changed;
}

/**
 * Makes sure that no text has come to a packed corpus that was not packed. Text that is not there any more is
 * not needed.
 *
 * @param then the files that were packed
 * @param paths what the corpus is made from
 * @returns those of the paths where nothing is
 * @throws {UserError} naming the first file whose contents were not packed
 */
export async function expectNoOtherText(
  then: readonly PackedFile[],
  paths: readonly string[],
): Promise<string[]> {
  const gone: string[] = [];
  for (const path of paths) {
    let files: CorpusFile[];
    try {
      files = listCorpus([path]);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      gone.push(path);
      continue;
    }
    for (const file of files) {
      if (then.some((packed) => isUntouched(packed, file))) continue;
      const sizes = then.filter(({ size }) => size === file.size);
      const contents = sizes.length > 0 ? await digestFile(file.path) : undefined;
      if (sizes.some(({ sha256 }) => sha256 === contents)) continue;
      const what = then.some(({ path }) => path === file.path) ? "changed" : "was added";
      throw new UserError(
        `${file.path}: this text ${what} after the run had begun; put back what it was begun with, or ` +
          "start another --run",
      );
    }
  }
  return gone;
}

/** What a packed corpus is, as one short text: its text, tokenizer and rule. */
export function corpusIdentity({ tokenizer, rule, files }: PackedManifest): string {
  return sha256(JSON.stringify([tokenizer, rule, files.map(({ sha256 }) => sha256)]));
}
