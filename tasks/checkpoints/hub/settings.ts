/**
 * Where the Hub is, where its cache is, and who is asking: the environment variables that Python's
 * `huggingface_hub` reads, with the same meaning.
 *
 * @module
 */

import { getHFHubCachePath } from "@huggingface/hub";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { UserError } from "../../../ops/graph/errors.ts";

/** The environment variables that {@link readSettings} reads. */
export const HUB_VARIABLES = [
  "HF_ENDPOINT",
  "HF_HOME",
  "HF_HUB_CACHE",
  "HF_HUB_OFFLINE",
  "HF_TOKEN",
  "HUGGINGFACE_HUB_CACHE",
  "XDG_CACHE_HOME",
] as const;

/** How the Hub is reached. */
export interface HubSettings {
  /** Address without a slash at its end. */
  readonly endpoint: string;
  /** Folder of the cache, shared with Python. */
  readonly cache: string;
  /** True if nothing may be downloaded. */
  readonly offline: boolean;
  /** Sent to the endpoint and to no other host. */
  readonly token?: string;
}

/**
 * Reads the settings from the environment, and the token from its file when `HF_TOKEN` is not set.
 *
 * @throws {UserError} if `HF_ENDPOINT` is no address
 */
export async function readSettings(): Promise<HubSettings> {
  const endpoint = (process.env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  if (!URL.canParse(endpoint) || !/^https?:/.test(endpoint)) {
    throw new UserError(`HF_ENDPOINT: expected https://HOST, got "${endpoint}"; unset or mend it`);
  }
  return {
    endpoint,
    cache: getHFHubCachePath(),
    offline: /^(1|on|yes|true)$/i.test(process.env.HF_HUB_OFFLINE ?? ""),
    token: process.env.HF_TOKEN?.trim() || await savedToken(),
  };
}

/** The token that Python's `hf auth login` has saved. */
async function savedToken(): Promise<string | undefined> {
  const { HF_HOME, XDG_CACHE_HOME } = process.env;
  const home = HF_HOME ?? join(XDG_CACHE_HOME ?? join(homedir(), ".cache"), "huggingface");
  const text = await readFile(join(home, "token"), "utf8").catch(() => "");
  return text.trim() || undefined;
}
