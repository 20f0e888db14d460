import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { HUB_VARIABLES, type HubOptions, resolveModel } from "../../../tasks/checkpoints/hub.ts";
import { parseHubModel } from "../../../tasks/checkpoints/hub/name.ts";
import { readSettings } from "../../../tasks/checkpoints/hub/settings.ts";
import {
  brokenAfter,
  bytesOf,
  etagOf,
  isLarge,
  refused,
  type Repository,
  type StandIn,
  startHub,
} from "./hub_server.ts";

const NAME = "owner/model";
const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS = noise(300_000);

const SMALL = {
  "config.json": `{"d_model": 4}`,
  "tokenizer_config.json": "{}",
  "spiece.model": "pieces",
};
const REPOSITORY: Repository = {
  commit: COMMIT,
  files: { ...SMALL, "pytorch_model.bin": WEIGHTS },
};

function noise(length: number): Uint8Array {
  const random = new Random(key(7));
  return Uint8Array.from({ length }, () => random.below(256));
}

/** Sets environment variables for the time of some work, and unsets all others that count. */
async function withEnvironment<T>(
  variables: Record<string, string>,
  work: () => Promise<T>,
): Promise<T> {
  const names = [...HUB_VARIABLES, "HOME"];
  const before = names.map((name) => Deno.env.get(name));
  for (const name of HUB_VARIABLES) Deno.env.delete(name);
  for (const [name, value] of Object.entries(variables)) Deno.env.set(name, value);
  try {
    return await work();
  } finally {
    names.forEach((name, i) => {
      if (before[i] === undefined) Deno.env.delete(name);
      else Deno.env.set(name, before[i]);
    });
  }
}

interface Stage {
  hub: StandIn;
  /** An empty cache. */
  cache: string;
  /** The cache's folder of the model. */
  folder: string;
  resolve(model?: string, options?: HubOptions): Promise<string>;
}

/** Runs work against a stand-in with a fresh cache; pauses take no time. */
async function onStage(
  work: (stage: Stage) => Promise<void>,
  { repositories = { [NAME]: REPOSITORY }, environment = {} }: {
    repositories?: Record<string, Repository>;
    environment?: Record<string, string>;
  } = {},
): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), "hub-"));
  const hub = startHub(repositories);
  const cache = join(root, "hub");
  const variables = { HF_ENDPOINT: hub.endpoint, HF_HOME: root, ...environment };
  const quiet = { output: { write() {} }, patience: { pauses: [0, 0], silence: 10_000 } };
  try {
    await withEnvironment(variables, () =>
      work({
        hub,
        cache,
        folder: join(cache, "models--owner--model"),
        resolve: (model = NAME, options = {}) => resolveModel(model, { ...quiet, ...options }),
      }));
  } finally {
    await hub.close();
    await rm(root, { recursive: true });
  }
}

/** Asserts that work fails with a single line that a person can act on. */
async function rejects(work: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(work, (error: Error) => {
    assert.ok(error instanceof UserError, `${error.stack}`);
    assert.match(error.message, message);
    assert.ok(!error.message.includes("\n"));
    return true;
  });
}

/** Asserts that a snapshot has exactly these files. */
async function assertFiles(snapshot: string, files: Repository["files"]): Promise<void> {
  assert.deepEqual((await readdir(snapshot)).toSorted(), Object.keys(files).toSorted());
  for (const [name, file] of Object.entries(files)) {
    assert.deepEqual(new Uint8Array(await readFile(join(snapshot, name))), bytesOf(file), name);
  }
}

/** A cache as Python leaves it. */
async function writeCache(folder: string, files: Repository["files"]): Promise<string> {
  const snapshot = join(folder, "snapshots", COMMIT);
  await mkdir(snapshot, { recursive: true });
  await mkdir(join(folder, "blobs"));
  await mkdir(join(folder, "refs"));
  await writeFile(join(folder, "refs", "main"), COMMIT);
  for (const [name, file] of Object.entries(files)) {
    const etag = etagOf(name, file);
    await writeFile(join(folder, "blobs", etag), file);
    await symlink(`../../blobs/${etag}`, join(snapshot, name));
  }
  return snapshot;
}

const paths = (hub: StandIn) => hub.seen.map(({ path }) => path);

Deno.test("a name gives a snapshot with config, tokenizer and one copy of the weights", async () => {
  const wanted = {
    ...SMALL,
    "generation_config.json": "{}",
    "dict.txt": "a 1\n",
    "sp.model": "pieces",
    "special_tokens_map.json": "{}",
    "tokenizer.json": "{}",
    "model.safetensors": WEIGHTS,
  };
  const others = {
    "README.md": "# Model",
    "modeling.py": "import os",
    "pytorch_model.bin": "the same again",
    "flax_model.msgpack": "again",
    "tf_model.h5": "again",
    "model.onnx": "again",
  };
  const files = { ...wanted, ...others };
  await onStage(async ({ resolve, folder }) => {
    const snapshot = await resolve();
    assert.equal(snapshot, join(folder, "snapshots", COMMIT));
    await assertFiles(snapshot, wanted);
  }, { repositories: { [NAME]: { commit: COMMIT, files } } });
});

Deno.test("the cache has Python's layout: blobs by checksum, relative links, refs", async () => {
  const files = { ...REPOSITORY.files, "config.json": "hello\n" };
  await onStage(async ({ resolve, folder }) => {
    const snapshot = await resolve();
    // As git hash-object and sha256sum say.
    const links = {
      "config.json": "ce013625030ba8dba906f756967f9e9ca394464a",
      "spiece.model": "b6aa423de4f79355751cdf73a26b069d5da4c248288cb8bdafc8f552f0adfc44",
    };
    for (const [name, etag] of Object.entries(links)) {
      assert.equal(await readlink(join(snapshot, name)), `../../blobs/${etag}`);
    }
    assert.equal(await readFile(join(folder, "refs", "main"), "utf8"), COMMIT);
    const blobs = Object.entries(files).map(([name, file]) => etagOf(name, file));
    assert.deepEqual((await readdir(join(folder, "blobs"))).toSorted(), blobs.toSorted());
  }, { repositories: { [NAME]: { commit: COMMIT, files } } });
});

Deno.test("what is in the cache is returned without a request", async () => {
  await onStage(async ({ resolve, hub }) => {
    const snapshot = await resolve();
    hub.seen.length = 0;
    assert.equal(await resolve(), snapshot);
    assert.equal(await resolve(`${NAME}@${COMMIT}`), snapshot);
    Deno.env.set("HF_HUB_OFFLINE", "1");
    assert.equal(await resolve(), snapshot);
    assert.deepEqual(hub.seen, []);
  });
});

Deno.test("what Python has downloaded is found without a request, with more files or fewer", async () => {
  const extras: Repository["files"][] = [{}, { "README.md": "# Model", "tokenizer.json": "{}" }];
  for (const more of extras) {
    await onStage(async ({ resolve, hub, folder }) => {
      const snapshot = await writeCache(folder, { ...REPOSITORY.files, ...more });
      assert.equal(await resolve(), snapshot);
      assert.deepEqual(hub.seen, []);
    });
  }
});

Deno.test("what the cache lacks is added to it, and what has a blob is only linked", async () => {
  await onStage(async ({ resolve, hub, folder }) => {
    const snapshot = await writeCache(folder, REPOSITORY.files);
    const weights = etagOf("pytorch_model.bin", WEIGHTS);
    await rm(join(folder, "blobs", weights)); // its link now leads nowhere
    await rm(join(snapshot, "config.json")); // its blob is still there
    assert.equal(await resolve(), snapshot);
    await assertFiles(snapshot, REPOSITORY.files);
    const fetched = paths(hub).filter((path) => path.includes("/resolve/"));
    assert.deepEqual(new Set(fetched), new Set([`/${NAME}/resolve/${COMMIT}/pytorch_model.bin`]));
  });
});

Deno.test("branches, tags and commits are followed by @", async () => {
  await onStage(async ({ resolve, folder }) => {
    const snapshot = join(folder, "snapshots", COMMIT);
    assert.equal(await resolve(`${NAME}@v1`), snapshot);
    assert.equal(await resolve(`${NAME}@${COMMIT}`), snapshot);
    assert.deepEqual(await readdir(join(folder, "refs")), ["v1"]);
  });
});

Deno.test("a renamed model is followed, and kept under the name that was asked for", async () => {
  await onStage(async ({ resolve, hub, cache }) => {
    hub.intercept = ({ server, path }) => {
      if (server !== "hub" || path.includes(NAME)) return;
      const headers = { location: path.replace("old", NAME) };
      return new Response(null, { status: 307, headers });
    };
    const snapshot = await resolve("old");
    assert.equal(snapshot, join(cache, "models--old", "snapshots", COMMIT));
    await assertFiles(snapshot, REPOSITORY.files);
  });
});

Deno.test("a transfer that breaks goes on where it stopped", async () => {
  await onStage(async ({ resolve, hub }) => {
    const breaks = [100_000, 50_000, 0];
    hub.intercept = ({ server, range }, whole) => {
      const count = server === "cdn" && whole().length === WEIGHTS.length && breaks.shift();
      if (typeof count !== "number") return;
      const start = Number(range?.match(/\d+/)?.[0] ?? 0);
      return brokenAfter(whole().slice(start), count, range ? 206 : 200);
    };
    await assertFiles(await resolve(), REPOSITORY.files);
    const ranges = hub.seen.filter(({ server, path }) => server === "cdn" && path.endsWith(".bin"))
      .map(({ range }) => range);
    assert.deepEqual(ranges, [null, "bytes=100000-", "bytes=150000-", "bytes=150000-"]);
  });
});

Deno.test("a transfer that was given up goes on in the next run", async () => {
  await onStage(async ({ resolve, hub, folder }) => {
    hub.intercept = ({ server, path, range }, whole) => {
      if (server !== "cdn" || !path.endsWith(".bin")) return;
      return range ? brokenAfter(whole(), 0, 206) : brokenAfter(whole(), 100_000);
    };
    await rejects(resolve(), /pytorch_model.bin broke off; check the network and run again/);
    const incomplete = `${etagOf("pytorch_model.bin", WEIGHTS)}.incomplete`;
    assert.equal((await stat(join(folder, "blobs", incomplete))).size, 100_000);
    hub.intercept = undefined;
    hub.seen.length = 0;
    await assertFiles(await resolve(), REPOSITORY.files);
    assert.equal(hub.seen.at(-1)!.range, "bytes=100000-");
    assert.ok(!existsSync(join(folder, "blobs", incomplete)));
  });
});

Deno.test("a server that knows no ranges sends the file again from its start", async () => {
  await onStage(async ({ resolve, hub }) => {
    const answers = [
      (whole: Uint8Array) => brokenAfter(whole, 100_000),
      (whole: Uint8Array) => new Response(new Uint8Array(whole)),
    ];
    hub.intercept = ({ server, path }, whole) =>
      server === "cdn" && path.endsWith(".bin") ? answers.shift()?.(whole()) : undefined;
    await assertFiles(await resolve(), REPOSITORY.files);
    assert.deepEqual(answers, []);
  });
});

Deno.test("a server that knows no ranges and always breaks off is given up", async () => {
  await onStage(async ({ resolve, hub }) => {
    hub.intercept = ({ server, path }, whole) =>
      server === "cdn" && path.endsWith(".bin") ? brokenAfter(whole(), 100_000) : undefined;
    await rejects(resolve(), /broke off/);
  });
});

Deno.test("bytes that differ from the announced ones are deleted", async () => {
  for (const name of ["config.json", "pytorch_model.bin"]) {
    const wrong = [
      (bytes: Uint8Array) => bytes.with(bytes.length - 1, bytes.at(-1)! ^ 1),
      (bytes: Uint8Array) => new Uint8Array([...bytes, 0]),
    ];
    for (const change of wrong) {
      await onStage(async ({ resolve, hub, folder }) => {
        hub.intercept = ({ server, path }, whole) =>
          path.endsWith(name) && (server === "cdn") === isLarge(name)
            ? new Response(new Uint8Array(change(whole())))
            : undefined;
        await rejects(resolve(), new RegExp(`${name} arrived damaged .* deleted; run again$`));
        const left = await readdir(join(folder, "blobs"));
        assert.ok(!left.some((blob) => blob.startsWith(etagOf(name, REPOSITORY.files[name]))));
        hub.intercept = undefined;
        await assertFiles(await resolve(), REPOSITORY.files);
      });
    }
  }
});

Deno.test("two programs that want the same file fetch it once", async () => {
  await onStage(async ({ resolve, hub }) => {
    const [one, other] = await Promise.all([resolve(), resolve()]);
    assert.equal(one, other);
    await assertFiles(one, REPOSITORY.files);
    assert.equal(paths(hub).filter((path) => path.endsWith("/config.json")).length, 1);
    assert.equal(hub.seen.filter(({ server }) => server === "cdn").length, 2);
  });
});

Deno.test("refusals name what was refused and what to do", async () => {
  const access =
    /^owner\/model: needs access: accept its conditions at http:\S+\/owner\/model and /;
  const cases: [model: string, answer: Response | undefined, token: string, message: RegExp][] = [
    [
      "owner/none",
      undefined,
      "",
      /^owner\/none: no such folder, and no such model at .* HF_TOKEN$/,
    ],
    ["none", refused(404), "hf_a", /^none: no such folder, and no such model at .* lack access$/],
    [`${NAME}@v9`, undefined, "", /^owner\/model: has no revision v9 at /],
    [NAME, refused(401, "GatedRepo"), "", new RegExp(access.source + "set HF_TOKEN$")],
    [NAME, refused(403, "GatedRepo"), "hf_a", new RegExp(access.source + "use the HF_TOKEN of")],
    [NAME, refused(403), "hf_a", access],
    [
      NAME,
      refused(401, undefined, "Invalid credentials in Authorization header"),
      "hf_a",
      /does not accept your HF_TOKEN/,
    ],
    [NAME, refused(418, undefined, "I am a teapot"), "", /answers 418 I am a teapot$/],
    [NAME, new Response("<html>log in</html>"), "", /does not answer as a model hub/],
  ];
  for (const [model, answer, token, message] of cases) {
    await onStage(async ({ resolve, hub }) => {
      if (answer) hub.intercept = () => answer;
      await rejects(resolve(model), message);
      assert.equal(hub.seen.length, 1, "a refusal is not tried again");
    }, { environment: token ? { HF_TOKEN: token } : {} });
  }
});

Deno.test("a gated model is refused at its files, a vanished file by name", async () => {
  for (
    const [answer, message] of [
      [() => refused(401, "GatedRepo"), /^owner\/model: needs access/],
      [() => refused(404, "EntryNotFound"), /^owner\/model: has no file config.json at/],
    ] as const
  ) {
    await onStage(async ({ resolve, hub }) => {
      hub.intercept = ({ path }) => path.includes("/resolve/") ? answer() : undefined;
      await rejects(resolve(), message);
    });
  }
});

Deno.test("a repository without config, weights or tokenizer is no model", async () => {
  for (
    const [name, missing] of [
      ["config.json", /no config.json/],
      ["spiece.model", /no tokenizer \(/],
      ["pytorch_model.bin", /no weights \(/],
    ] as const
  ) {
    const { [name]: _, ...files } = REPOSITORY.files;
    await onStage(async ({ resolve, hub }) => {
      await rejects(resolve(), missing);
      assert.ok(!paths(hub).some((path) => path.includes("/resolve/")));
    }, { repositories: { [NAME]: { commit: COMMIT, files } } });
  }
});

Deno.test("a busy server is asked again, and given up in the end", async () => {
  await onStage(async ({ resolve, hub }) => {
    const busy = [503, 429];
    hub.intercept = () => {
      const status = busy.shift();
      return status ? refused(status) : undefined;
    };
    await assertFiles(await resolve(), REPOSITORY.files);
  });
  await onStage(async ({ resolve, hub }) => {
    hub.intercept = () => refused(500);
    await rejects(resolve(), /answers 500; check the network and run again/);
    assert.equal(hub.seen.length, 3);
  });
});

Deno.test("an address of the CDN that has expired is asked for anew", async () => {
  await onStage(async ({ resolve, hub }) => {
    let expired = 1;
    hub.intercept = ({ server }) => server === "cdn" && expired-- > 0 ? refused(403) : undefined;
    await assertFiles(await resolve(), REPOSITORY.files);
  });
});

Deno.test("a silent server counts as broken", async () => {
  await onStage(async ({ resolve, hub }) => {
    hub.intercept = ({ server }) =>
      server === "cdn" ? new Response(new ReadableStream({ pull: () => {} })) : undefined;
    const patience = { pauses: [], silence: 50 };
    await rejects(resolve(NAME, { patience }), /broke off|is silent/);
  });
});

Deno.test("without a net, the error names HF_HUB_OFFLINE and the models of the cache", async () => {
  await onStage(async ({ resolve, cache }) => {
    await mkdir(join(cache, "models--google--t5"), { recursive: true });
    await mkdir(join(cache, "models--t5-small"));
    Deno.env.set("HF_ENDPOINT", "http://127.0.0.1:1");
    await rejects(
      resolve(),
      /^owner\/model: .*127.0.0.1:1.* HF_HUB_OFFLINE=1 .* \(google\/t5, t5-small\)$/,
    );
  });
});

Deno.test("offline, what the cache lacks is named and nothing is asked for", async () => {
  await onStage(async ({ resolve, hub, folder }) => {
    await rejects(resolve(), /HF_HUB_OFFLINE is set, and the cache does not have it;.*no models/);
    const { "pytorch_model.bin": _, ...files } = REPOSITORY.files;
    await writeCache(folder, files);
    await rejects(resolve(), /the cache lacks its weights/);
    assert.deepEqual(hub.seen, []);
  }, { environment: { HF_HUB_OFFLINE: "1" } });
});

Deno.test("the token goes to the endpoint and nowhere else", async () => {
  const token = "hf_secret";
  const assertSent = (hub: StandIn) => {
    assert.ok(hub.seen.some(({ server }) => server === "cdn"));
    for (const { server, authorization } of hub.seen) {
      assert.equal(authorization, server === "hub" ? `Bearer ${token}` : null);
    }
  };
  let log = "";
  const output = { write: (text: string) => log += text };
  await onStage(async ({ resolve, hub }) => {
    await resolve(NAME, { output });
    assertSent(hub);
  }, { environment: { HF_TOKEN: token } });
  await onStage(async ({ resolve, hub, cache }) => {
    await writeFile(join(dirname(cache), "token"), `${token}\n`);
    await resolve(NAME, { output });
    assertSent(hub);
  });
  await onStage(async ({ resolve, hub }) => {
    await resolve();
    assert.ok(hub.seen.every(({ authorization }) => authorization === null));
  });
  assert.ok(!log.includes(token));
});

Deno.test("addresses with signatures do not show in errors", async () => {
  await onStage(async ({ resolve, hub }) => {
    hub.intercept = ({ server }) => {
      if (server !== "hub") return;
      const headers = { location: "http://127.0.0.1:1/file?signature=secret" };
      return new Response(null, { status: 302, headers });
    };
    await rejects(resolve(), /^(?!.*secret).*127\.0\.0\.1:1/);
  });
});

Deno.test("redirects that lead in a circle or off the web are refused", async () => {
  for (
    const [location, message] of [
      ["/resolve/again", /redirects in a circle/],
      ["file:///etc/passwd", /does not answer as a model hub/],
    ] as const
  ) {
    await onStage(async ({ resolve, hub }) => {
      const redirect = () => new Response(null, { status: 302, headers: { location } });
      hub.intercept = ({ path }) => path.includes("/resolve/") ? redirect() : undefined;
      await rejects(resolve(), message);
    });
  }
});

const SHARDS = { "a-1-of-2": noise(1000), "a-2-of-2": noise(2000) };

function sharded(kind: "safetensors" | "bin", index?: unknown): Repository["files"] {
  const stem = kind === "bin" ? "pytorch_model.bin" : "model.safetensors";
  const [one, two] = Object.keys(SHARDS).map((name) => `${name}.${kind}`);
  const weight_map = { "a.weight": one, "b.weight": two, "c.weight": one };
  return {
    ...SMALL,
    [`${stem}.index.json`]: JSON.stringify(index ?? { weight_map }),
    [one]: SHARDS["a-1-of-2"],
    [two]: SHARDS["a-2-of-2"],
  };
}

Deno.test("the weights may be parts that an index names", async () => {
  for (const kind of ["safetensors", "bin"] as const) {
    const files = sharded(kind);
    const more: Repository["files"] = kind === "bin" ? {} : { "pytorch_model.bin": "not needed" };
    await onStage(async ({ resolve, hub, folder }) => {
      const snapshot = await resolve();
      await assertFiles(snapshot, files);
      hub.seen.length = 0;
      assert.equal(await resolve(), snapshot);
      assert.deepEqual(hub.seen, []);
      // One part lost: only that is fetched.
      const lost = `a-2-of-2.${kind}`;
      await rm(join(folder, "blobs", etagOf(lost, files[lost])));
      assert.equal(await resolve(), snapshot);
      await assertFiles(snapshot, files);
      assert.ok(paths(hub).slice(2).every((path) => path.endsWith(lost)));
    }, { repositories: { [NAME]: { commit: COMMIT, files: { ...files, ...more } } } });
  }
});

Deno.test("an index that leads elsewhere, or is none, is refused", async () => {
  for (
    const [index, message] of [
      [
        { weight_map: { a: "../x" } },
        /expected the plain name of a \.bin file beside the index, got \.\.\/x$/,
      ],
      [
        { weight_map: { a: "/etc/passwd" } },
        /expected the plain name of a \.bin file beside the index, got \/etc\/passwd$/,
      ],
      [{ weight_map: { a: "none.bin" } }, /names none\.bin, which is not in the repository/],
      [
        { weight_map: { a: 1 } },
        /expected the plain name of a \.bin file beside the index, got 1$/,
      ],
      [[], /index\.json: not a JSON object$/],
    ] as const
  ) {
    // The repository itself claims to have a file of that name.
    const files = { ...sharded("bin", index), "../x": "a file" };
    await onStage(async ({ resolve, cache }) => {
      await rejects(resolve(), message);
      assert.deepEqual(await readdir(cache), [".locks", "models--owner--model"]);
      assert.ok(!existsSync(join(cache, "models--owner--model", "snapshots", "x")));
    }, { repositories: { [NAME]: { commit: COMMIT, files } } });
  }
});

Deno.test({
  name: "a full disk is named, and what has come is kept",
  ignore: !existsSync("/dev/full"),
  async fn() {
    await onStage(async ({ resolve, folder }) => {
      const blobs = join(folder, "blobs");
      await mkdir(blobs, { recursive: true });
      await symlink("/dev/full", join(blobs, `${etagOf("pytorch_model.bin", WEIGHTS)}.incomplete`));
      await rejects(resolve(), /the disk is full; make room and run again/);
      assert.equal((await readdir(blobs)).length, Object.keys(REPOSITORY.files).length);
    });
  },
});

Deno.test("a folder is its own answer, a file none, and a wrong path gets its neighbour", async () => {
  const root = await mkdtemp(join(tmpdir(), "hub-"));
  try {
    await mkdir(join(root, "tiny-t0"));
    await writeFile(join(root, "file"), "");
    assert.equal(await resolveModel(join(root, "tiny-t0")), join(root, "tiny-t0"));
    await rejects(resolveModel(join(root, "file")), /expected the folder of a model, got a file/);
    await rejects(
      resolveModel(join(root, "tinny-t0")),
      /tinny-t0: no such folder; .*did you mean the folder .*\/tiny-t0\?$/,
    );
    await rejects(resolveModel(join(root, "other")), /other: no such folder; [^;]*$/);
  } finally {
    await rm(root, { recursive: true });
  }
});

Deno.test("names of models are told from paths", () => {
  for (const name of ["t5-small", "google/t5-v1_1-base", "a/b.c", "0x/1"]) {
    assert.deepEqual(parseHubModel(name), { name, revision: "main" });
    for (const revision of ["v1.0", "refs/pr/1", COMMIT, "feature/x_y"]) {
      assert.deepEqual(parseHubModel(`${name}@${revision}`), { name, revision });
    }
    for (const revision of ["", "../x", "/x", "a//b", "a/../b", "a b", "x/"]) {
      assert.equal(parseHubModel(`${name}@${revision}`), undefined, revision);
    }
  }
  const paths = ["", ".", "..", "./a", "../a", "/a", "~/a", "a/b/c", "a/", "a\\b", "C:\\a"];
  for (const path of [...paths, "a--b/c", "a/..", ".a/b", "a/b-", "a b", "a".repeat(97)]) {
    assert.equal(parseHubModel(path), undefined, path);
  }
});

Deno.test("the cache is where Python has it", async () => {
  const cacheWith = (variables: Record<string, string>) =>
    withEnvironment({ HOME: "/home/me", ...variables }, async () => (await readSettings()).cache);
  assert.equal(await cacheWith({}), "/home/me/.cache/huggingface/hub");
  assert.equal(await cacheWith({ XDG_CACHE_HOME: "/x" }), "/x/huggingface/hub");
  assert.equal(await cacheWith({ XDG_CACHE_HOME: "/x", HF_HOME: "/h" }), "/h/hub");
  assert.equal(await cacheWith({ HF_HOME: "/h", HF_HUB_CACHE: "/c" }), "/c");
});

Deno.test("the endpoint must be an address, and a slash at its end does not count", async () => {
  const endpointOf = (endpoint: string) =>
    withEnvironment({ HF_ENDPOINT: endpoint }, async () => (await readSettings()).endpoint);
  assert.equal(await endpointOf("https://hub.example/"), "https://hub.example");
  assert.equal(await endpointOf(""), "https://huggingface.co");
  await rejects(endpointOf("hub.example"), /^HF_ENDPOINT: expected https:\/\/HOST/);
  await rejects(endpointOf("file:///etc"), /^HF_ENDPOINT: expected https:\/\/HOST/);
});

Deno.test("progress is a line per file in a log, and a bar with bytes on a terminal", async () => {
  await onStage(async ({ resolve }) => {
    let log = "";
    await resolve(NAME, { output: { write: (text) => log += text } });
    assert.deepEqual(log.split("\n"), [
      "owner/model: downloading config.json, 14 B",
      "owner/model: downloading tokenizer_config.json, 2 B",
      "owner/model: downloading spiece.model, 6 B",
      "owner/model: downloading pytorch_model.bin, 300 kB",
      "",
    ]);
  });
  await onStage(async ({ resolve }) => {
    let screen = "";
    const terminal = { isTTY: true, write: (text: string) => screen += text };
    await resolve(NAME, { output: Object.assign(terminal, { cursorTo() {}, clearLine() {} }) });
    assert.match(screen, /█{32} 300 kB of 300 kB {2}\S+ .?B\/s {2}owner\/model: pytorch_model.bin/);
  });
});

Deno.test("two processes share a download, with the permissions that the documentation names", async () => {
  await onStage(async ({ hub, cache, folder }) => {
    const program = join(dirname(cache), "resolve.ts");
    const module = new URL("../../../tasks/checkpoints/hub.ts", import.meta.url).href;
    await writeFile(
      program,
      `import { resolveModel } from ${JSON.stringify(module)};\n` +
        `console.log(await resolveModel(${JSON.stringify(NAME)}));\n`,
    );
    const command = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--quiet", "--no-prompt", "--allow-read", "--allow-write"],
        ...["--config", new URL("../../../deno.json", import.meta.url).pathname],
        ...[`--allow-env=${HUB_VARIABLES.join()}`, "--allow-sys=homedir", "--allow-net=127.0.0.1"],
        program,
      ],
    });
    for (const { stdout, stderr } of await Promise.all([command.output(), command.output()])) {
      const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
      assert.equal(text(stdout), join(folder, "snapshots", COMMIT), text(stderr));
    }
    await assertFiles(join(folder, "snapshots", COMMIT), REPOSITORY.files);
    assert.equal(hub.seen.filter(({ server }) => server === "cdn").length, 2);
  });
});

const ENTRY = { type: "file", path: "config.json", size: 2, oid: "9".repeat(40) };

/** Answers to the question for the commit, and for the list of files, that no hub gives. */
const NONSENSE: Record<string, { revision?: string; tree?: string }> = {
  "a page of HTML": { revision: "<html>" },
  "no JSON after all": { revision: "{" },
  "a list for a model": { revision: "[]" },
  "nothing": { revision: "null" },
  "no commit": { revision: "{}" },
  "a commit that is a number": { revision: '{"sha": 1}' },
  "a commit that leads elsewhere": { revision: JSON.stringify({ sha: "../".repeat(14) }) },
  "null for a file": { tree: "[null]" },
  "an object for a list": { tree: '{"a": 1}' },
  "a text for a list": { tree: '"[]"' },
  "a file without a name": { tree: JSON.stringify([{ ...ENTRY, path: 1 }]) },
  "a file without a size": { tree: JSON.stringify([{ ...ENTRY, size: "2" }]) },
  "a size below zero": { tree: JSON.stringify([{ ...ENTRY, size: -1 }]) },
  "a size beyond all disks": { tree: JSON.stringify([{ ...ENTRY, size: 1e15 }]) },
  "a checksum that is none": { tree: JSON.stringify([{ ...ENTRY, lfs: { oid: 7, size: 1 } }]) },
  "a large file without a size": { tree: JSON.stringify([{ ...ENTRY, lfs: { oid: "a" } }]) },
  "lfs that is a text": { tree: JSON.stringify([{ ...ENTRY, lfs: "yes" }]) },
  "brackets without end": { tree: "[".repeat(100_000) + "]".repeat(100_000) },
};

for (const [what, { revision, tree }] of Object.entries(NONSENSE)) {
  Deno.test(`a hub that answers with ${what} is named as none`, async () => {
    await onStage(async ({ resolve, hub, folder }) => {
      hub.intercept = ({ path }) => {
        if (path.includes("/revision/") && revision !== undefined) return new Response(revision);
        if (path.includes("/tree/") && tree !== undefined) return new Response(tree);
      };
      await rejects(resolve(), /does not answer as a model hub; check HF_ENDPOINT/);
      assert.ok(!existsSync(folder));
    });
  });
}

Deno.test("names and checksums of files that lead out of the cache are passed over", async () => {
  const names = ["../config.json", "/etc/config.json", "..", "a/config.json", ".config.json", ""];
  const files = [
    ...names.map((path) => ({ ...ENTRY, path })),
    ...["../".repeat(14), "", "9".repeat(41)].map((oid) => ({ ...ENTRY, oid })),
  ];
  await onStage(async ({ resolve, hub, folder }) => {
    hub.intercept = ({ path }) => path.includes("/tree/") ? Response.json(files) : undefined;
    await rejects(resolve(), /the repository has no config\.json/);
    assert.ok(!existsSync(folder));
  });
});

Deno.test("addresses that are none, or no web's, are not followed", async () => {
  for (const location of ["http://[::bad", "http://", "file:///etc/passwd", "data:,x"]) {
    await onStage(async ({ resolve, hub }) => {
      const redirect = new Response(null, { status: 302, headers: { location } });
      hub.intercept = ({ path }) => path.includes("/resolve/") ? redirect : undefined;
      await rejects(resolve(), /does not answer as a model hub/);
    });
  }
});

Deno.test("a list without a last page is given up, and so is an answer without an end", async () => {
  await onStage(async ({ resolve, hub }) => {
    hub.intercept = ({ path }) => {
      if (!path.includes("/tree/")) return;
      return Response.json([], { headers: { link: `<${hub.endpoint}${path}>; rel="next"` } });
    };
    await rejects(resolve(), /^owner\/model: the list of files at 127\.0\.0\.1:\d+ does not end$/);
    assert.ok(hub.seen.length < 200);
  });
  for (const part of ["/revision/", "/tree/"]) {
    await onStage(async ({ resolve, hub }) => {
      let sent = 0;
      const endless = new ReadableStream<Uint8Array>({
        pull(controller) {
          sent += 1 << 16;
          controller.enqueue(new Uint8Array(1 << 16).fill(32));
        },
      });
      hub.intercept = ({ path }) => path.includes(part) ? new Response(endless) : undefined;
      await rejects(resolve(), /does not answer as a model hub/);
      assert.ok(sent < 1 << 26, `${sent} bytes`);
    });
  }
});

Deno.test("no more bytes are taken than were announced, and no config of any size", async () => {
  const name = "config.json";
  await onStage(async ({ resolve, hub }) => {
    let sent = 0;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 1 << 16;
        controller.enqueue(new Uint8Array(1 << 16));
      },
    });
    hub.intercept = ({ path }) => path.endsWith(`/${name}`) ? new Response(endless) : undefined;
    await rejects(resolve(), /config\.json arrived damaged/);
    assert.ok(sent < 1 << 26, `${sent} bytes`);
  });
  await onStage(async ({ resolve, hub }) => {
    const files = Object.entries(REPOSITORY.files).map(([path, bytes]) => ({
      ...{ type: "file", path, oid: etagOf(path, bytes) },
      size: path === name ? 2 ** 40 : bytes.length,
    }));
    hub.intercept = ({ path }) => path.includes("/tree/") ? Response.json(files) : undefined;
    await rejects(
      resolve(),
      /config\.json: expected at most \d+ bytes, .* announces 1099511627776/,
    );
    assert.ok(!hub.seen.some(({ path }) => path.endsWith(name)));
  });
});
