// A stand-in for the Hugging Face Hub and its CDN: the routes that a download uses, on two ports.

import { createHash } from "node:crypto";

/** A repository of models. */
export interface Repository {
  /** The commit of `main`. */
  commit: string;
  /** Its files; those with a sign of large files in the name are on the CDN. */
  files: Record<string, string | Uint8Array>;
}

/** A request, as the server has seen it. */
export interface Seen {
  server: "hub" | "cdn";
  path: string;
  range: string | null;
  authorization: string | null;
}

/** Answers in place of the stand-in; nothing leaves the answer to it. */
export type Intercept = (seen: Seen, whole: () => Uint8Array) => Response | undefined;

/** The two running servers. */
export interface StandIn {
  endpoint: string;
  /** All requests, in order. */
  seen: Seen[];
  intercept?: Intercept;
  close(): Promise<void>;
}

export const bytesOf = (file: string | Uint8Array): Uint8Array<ArrayBuffer> =>
  typeof file === "string" ? new TextEncoder().encode(file) : new Uint8Array(file);

/** True for what a repository keeps in large file storage. */
export const isLarge = (name: string): boolean => /\.(bin|safetensors|model)$/.test(name);

/** A file's name in the cache. */
export function etagOf(name: string, file: string | Uint8Array): string {
  const bytes = bytesOf(file);
  if (isLarge(name)) return createHash("sha256").update(bytes).digest("hex");
  return createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
}

/** An answer that announces all bytes and breaks off after some. */
export function brokenAfter(bytes: Uint8Array, count: number, status = 200): Response {
  let sent = false;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (sent) {
        // What has been sent must have left before the connection is cut.
        await new Promise((resolve) => setTimeout(resolve, 20));
        return controller.error(new Error("cut"));
      }
      sent = true;
      if (count > 0) controller.enqueue(bytes.slice(0, count));
    },
  });
  return new Response(body, { status, headers: { "content-length": `${bytes.length}` } });
}

/** An answer of the Hub that refuses. */
export function refused(status: number, code?: string, message?: string): Response {
  const headers = new Headers();
  if (code) headers.set("x-error-code", code);
  if (message) headers.set("x-error-message", message);
  return Response.json({ error: message ?? "refused" }, { status, headers });
}

/** Starts the servers. */
export function startHub(repositories: Record<string, Repository>): StandIn {
  const seen: Seen[] = [];
  const serve = (server: Seen["server"], answer: (url: URL, range: string | null) => Response) =>
    Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {}, onError: broken }, (request) => {
      const url = new URL(request.url);
      const { headers } = request;
      const range = headers.get("range");
      const one = {
        server,
        path: url.pathname,
        range,
        authorization: headers.get("authorization"),
      };
      seen.push(one);
      const whole = () => fileAt(repositories, url.pathname)!;
      return standIn.intercept?.(one, whole) ?? answer(url, range);
    });
  const broken = () => new Response(null, { status: 500 });

  const cdn = serve("cdn", (url, range) => ranged(fileAt(repositories, url.pathname)!, range));
  const hub = serve("hub", (url, range) => {
    const path = decodeURIComponent(url.pathname);
    const [name, repository] = Object.entries(repositories).find(([name]) =>
      path.startsWith(`/api/models/${name}/`) || path.startsWith(`/${name}/resolve/`)
    ) ?? [];
    if (!name || !repository) {
      return refused(401, "RepoNotFound", "Repository not found");
    }
    const { commit, files } = repository;
    const rest = path.slice(path.indexOf(name) + name.length + 1);
    if (rest.startsWith("revision/")) {
      const known = ["main", "v1", commit].includes(rest.slice("revision/".length));
      return known ? Response.json({ _id: "1", id: name, sha: commit }) : refused(
        404,
        "RevisionNotFound",
      );
    }
    if (rest.startsWith("tree/")) {
      return Response.json([
        { type: "directory", path: "original", size: 0, oid: "0".repeat(40) },
        ...Object.entries(files).map(([path, file]) =>
          entryOf(path, file)
        ),
      ]);
    }
    const file = fileAt(repositories, path);
    if (!file) return refused(404, "EntryNotFound");
    if (!isLarge(path)) return ranged(file, range);
    const location = `http://127.0.0.1:${cdn.addr.port}${url.pathname}?signature=secret`;
    return new Response(null, { status: 302, headers: { location } });
  });

  const standIn: StandIn = {
    endpoint: `http://127.0.0.1:${hub.addr.port}`,
    seen,
    close: async () => {
      await hub.shutdown();
      await cdn.shutdown();
    },
  };
  return standIn;
}

function entryOf(path: string, file: string | Uint8Array): unknown {
  const [size, etag] = [bytesOf(file).length, etagOf(path, file)];
  return isLarge(path)
    ? { type: "file", path, size, oid: "1".repeat(40), lfs: { oid: etag, size, pointerSize: 130 } }
    : { type: "file", path, size, oid: etag };
}

function fileAt(
  repositories: Record<string, Repository>,
  path: string,
): Uint8Array<ArrayBuffer> | undefined {
  const [, name, file] = path.match(/^\/(.+)\/resolve\/[^/]+\/(.+)$/) ?? [];
  const found = repositories[name]?.files[file];
  return found === undefined ? undefined : bytesOf(found);
}

function ranged(bytes: Uint8Array<ArrayBuffer>, range: string | null): Response {
  if (!range) return new Response(bytes);
  const start = Number(range.match(/^bytes=(\d+)-$/)![1]);
  const headers = { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
  return new Response(bytes.slice(start), { status: 206, headers });
}
