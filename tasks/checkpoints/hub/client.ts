/**
 * Requests to the Hub: the token for the endpoint alone, redirects followed by hand, refusals as
 * sentences, and what may pass by itself tried again.
 *
 * @module
 */

import { setTimeout as delay } from "node:timers/promises";
import { listFiles, modelInfo } from "@huggingface/hub";
import { isRecord, parseJson, shown } from "../../../models/formats/untrusted.ts";
import { UserError } from "../../../ops/graph/errors.ts";
import { type HubModel, nearFolder } from "./name.ts";
import type { HubSettings } from "./settings.ts";

const MAX_REDIRECTS = 10;
/** Of one answer in JSON: a page of a list has a thousand files. Bytes. */
const MAX_ANSWER = 1 << 24;
/** Of a list of files. */
const MAX_PAGES = 100;
/** So many times the silence that is borne, the answers to one question may take. */
const MAX_WAITS = 10;
/** Sizes beyond are nobody's. Bytes. */
const MAX_FILE = 2 ** 44;

/** How long a connection is trusted and tried again. */
export interface Patience {
  /** Pauses before each new attempt after a failure, in milliseconds. */
  pauses: readonly number[];
  /** A connection that is silent for so long counts as broken, in milliseconds. */
  silence: number;
}

/** For an outage of seconds; whoever loses the net for longer sees why within ten. */
export const PATIENCE: Patience = {
  pauses: [500, 1_000, 2_000, 4_000],
  silence: 30_000,
};

/** A failure that may pass by itself: no net, a server that is busy, a connection that broke. */
export class TransientError extends Error {}

/** A model, where it is asked for, and how patiently. */
export interface Source extends HubSettings, HubModel {
  /** How long it is tried. */
  readonly patience: Patience;
}

/** A file of a repository. */
export interface RemoteFile {
  /** Its name. */
  readonly name: string;
  /** In bytes. */
  readonly size: number;
  /** Name of its blob in the cache: SHA-256 of a large file, git's SHA-1 of a small one. */
  readonly etag: string;
}

/** Repeats work that fails for a moment, after pauses that grow. */
export async function withRetries<T>(
  { pauses }: Patience,
  work: () => Promise<T>,
): Promise<T> {
  for (const pause of pauses) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof TransientError)) throw error;
      await delay(pause);
    }
  }
  return await work();
}

/**
 * The commit that a model's revision means today.
 *
 * @throws {UserError} if the Hub refuses
 * @throws {TransientError} if it cannot be reached
 */
export async function commitOf(source: Source): Promise<string> {
  const { name, revision, endpoint: hubUrl } = source;
  const isModel = (answer: unknown) =>
    isRecord(answer) && typeof answer.sha === "string" && /^[0-9a-f]{40}$/.test(answer.sha);
  const fetch = jsonFetch(source, isModel);
  const { sha } = await modelInfo({ name, revision, hubUrl, fetch, additionalFields: ["sha"] });
  return sha;
}

/**
 * The files at the top of a repository, by name.
 *
 * @throws {UserError} if the Hub refuses
 * @throws {TransientError} if it cannot be reached
 */
export async function filesOf(source: Source, commit: string): Promise<Map<string, RemoteFile>> {
  const { endpoint: hubUrl, name } = source;
  const repo = { type: "model", name } as const;
  const files = new Map<string, RemoteFile>();
  const fetch = jsonFetch(source, (answer) => Array.isArray(answer) && answer.every(isEntry));
  for await (const entry of listFiles({ repo, revision: commit, hubUrl, fetch })) {
    const etag = entry.lfs?.oid ?? entry.oid ?? "";
    // Both become names of files here: nothing that could lead out of the cache is let in.
    const safe = /^\w[\w.-]*$/.test(entry.path) && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag);
    if (entry.type !== "file" || !safe) continue;
    files.set(entry.path, { name: entry.path, size: entry.lfs?.size ?? entry.size, etag });
  }
  return files;
}

/** What the library and we take for granted of a file in a list. */
function isEntry(entry: unknown): boolean {
  if (!isRecord(entry)) return false;
  const { type, path, size, oid, lfs } = entry;
  const isSize = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0;
  const isFile = isSize(size) && Number(size) <= MAX_FILE &&
    (lfs === undefined || lfs === null ||
      isRecord(lfs) && typeof lfs.oid === "string" && isSize(lfs.size) &&
        Number(lfs.size) <= MAX_FILE);
  return typeof path === "string" && (type !== "file" || (isFile && typeof oid === "string"));
}

/**
 * Sends one GET request.
 *
 * @param file what is asked for, if it is a file
 * @throws {UserError} if the Hub refuses
 * @throws {TransientError} if it cannot be reached, or is busy
 */
export async function request(
  source: Source,
  address: string,
  { headers, signal, file }: { headers?: HeadersInit; signal: AbortSignal; file?: string },
): Promise<Response> {
  const home = new URL(source.endpoint).origin;
  let url = webAddress(address, undefined, source);
  for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
    const sent = new Headers(headers);
    // Lengths and ranges count the bytes of the file, not of a compressed copy.
    sent.set("accept-encoding", "identity");
    if (source.token && url.origin === home) sent.set("authorization", `Bearer ${source.token}`);
    const response = await send(url, { headers: sent, signal });
    if (response.ok) return response;
    await response.body?.cancel();
    const location = response.status < 400 && response.headers.get("location");
    if (!location) {
      // A signed address of a CDN expires; the Hub gives a new one.
      throw url.origin === home
        ? await refusal(source, response, file)
        : new TransientError(`${url.host} answers ${response.status}`);
    }
    url = webAddress(location, url, source);
  }
  throw new UserError(`${source.name}: ${new URL(source.endpoint).host} redirects in a circle`);
}

/** The Hub leads to files and to further pages; nowhere but on the web. */
function webAddress(address: string, base: URL | undefined, source: Source): URL {
  const url = URL.canParse(address, base) ? new URL(address, base) : undefined;
  if (!url || !/^https?:$/.test(url.protocol)) throw noHub(source);
  return url;
}

/** What a failed connection is to the caller. The address is left out: it may hold a signature. */
function connectionError(error: unknown, host: string): Error {
  const { name, cause, message } = error as Error;
  if (name === "NotCapable") {
    return new UserError(`${host}: no permission to connect to it; add it to --allow-net`);
  }
  if (name === "AbortError" || name === "TimeoutError") {
    return new TransientError(`${host} is silent`);
  }
  const reason = cause instanceof Error ? cause.message : message;
  const short = reason.split(": ").slice(-2).join(": ");
  return new TransientError(`the connection to ${host} failed (${short})`);
}

async function send(url: URL, init: RequestInit): Promise<Response> {
  try {
    return await fetch(url, { ...init, redirect: "manual" });
  } catch (error) {
    throw connectionError(error, url.host);
  }
}

/**
 * The `fetch` that the package is given for one question: whole answers, of bounded length and number, and only
 * such that are what they should be.
 */
function jsonFetch(source: Source, isGood: (answer: unknown) => boolean): typeof fetch {
  const { patience } = source;
  const { host } = new URL(source.endpoint);
  const deadline = performance.now() + patience.silence * MAX_WAITS;
  let pages = 0;
  return async (address, init) => {
    if (pages++ >= MAX_PAGES || performance.now() > deadline) {
      throw new UserError(`${source.name}: the list of files at ${host} does not end`);
    }
    const { text, headers } = await withRetries(patience, async () => {
      const signal = AbortSignal.timeout(patience.silence);
      const response = await request(source, String(address), { headers: init?.headers, signal });
      const text = await textOf(response, source).catch((error) => {
        throw error instanceof UserError ? error : connectionError(error, host);
      });
      return { text, headers: response.headers };
    });
    if (!isGood(parsed(text))) throw noHub(source);
    return new Response(text, { headers });
  };
}

/** The text of an answer; one that is too long is left where it is. */
async function textOf(response: Response, source: Source): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  for await (const piece of response.body ?? []) {
    if ((size += piece.length) > MAX_ANSWER) throw noHub(source);
    text += decoder.decode(piece, { stream: true });
  }
  return text + decoder.decode();
}

/** What a text is as JSON; nothing if it is none. */
function parsed(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}

/** The Hub says in `X-Error-Code` which of several things a status means. */
async function refusal(source: Source, response: Response, file?: string): Promise<Error> {
  const { name, revision, endpoint, token } = source;
  const { host } = new URL(endpoint);
  const { status, headers } = response;
  const code = headers.get("x-error-code");
  if (status >= 500 || status === 429 || status === 408) {
    return new TransientError(`${host} answers ${status}`);
  }
  if (/Invalid credentials/i.test(headers.get("x-error-message") ?? "")) {
    return new UserError(`${name}: ${host} does not accept your HF_TOKEN; set a valid one`);
  }
  if (code === "RevisionNotFound") {
    return new UserError(`${name}: has no revision ${revision} at ${host}; check the name after @`);
  }
  if (status === 404 && file) {
    return new UserError(`${name}: has no file ${file} at ${host}, revision ${revision}`);
  }
  // To strangers, the Hub answers 401 for private models and for those that do not exist.
  if (status === 404 || code === "RepoNotFound") {
    const advice = token ? "your HF_TOKEN may lack access" : "set HF_TOKEN";
    return new UserError(
      `${name}: no such folder, and no such model at ${host}; check the name; ` +
        `if it is private, ${advice}${await nearFolder(name)}`,
    );
  }
  if (status === 401 || status === 403) {
    const advice = token ? "use the HF_TOKEN of that account" : "set HF_TOKEN";
    return new UserError(
      `${name}: needs access: accept its conditions at ${endpoint}/${name} and ${advice}`,
    );
  }
  const reason = shown(headers.get("x-error-message") ?? response.statusText);
  return new UserError(`${name}: ${host} answers ${status} ${reason}`.trim());
}

function noHub({ name, endpoint }: Source): UserError {
  return new UserError(
    `${name}: ${endpoint} does not answer as a model hub; check HF_ENDPOINT and your network`,
  );
}
