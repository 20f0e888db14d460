// What the package exports is a list that somebody chose: names come and go on purpose, and stay few.

import assert from "node:assert/strict";
import { join } from "node:path";

const ROOT = join(import.meta.dirname!, "..", "..");
/** Names at most: at the root, and in all entry points together. */
const MOST_AT_ROOT = 30, MOST = 150;

/** The public names by entry point, types included. */
const PUBLIC: Readonly<Record<string, string>> = {
  "mod.ts": `
    compile Device encodePrompt evaluate EvaluateJob finetune FinetuneJob generate GenerateOptions
    Generator grad LoadedModel loadModel listCorpus loadTokenizer ModelConfig openDevice OpenOptions preset
    PresetName pretrain PretrainJob Program rank Ranker Tokenizer trainTokenizer UserError
  `,
  "ops/mod.ts": `
    add attention AttentionOptions compile constant CrossEntropy crossEntropy
    CrossEntropyOptions Device div dropout DType equal exp gatherRows gelu grad greater input
    interpret layerNorm log matmul MatmulOptions mul neg notEqual openDevice OpenOptions Program
    ProgramMemory ProgramSpec relu reshape rmsNorm RunOptions runScalar scalar scale sigmoid
    sigmoidCrossEntropy spread sqrt state StateMemory stopGradient sub sum sumColumns sumRows
    sumSquares Tensor toFloat UserError where Workspace
  `,
  "models/mod.ts": `
    declareParameters decode encode foreignNames ForeignTensor hubConfig initialize isT5
    lossScalars maskId metro MetroBatch MetroInputs metroInputs MetroModel MetroOutputs
    ModelConfig modelFromHubConfig ObjectiveConfig OptimisationConfig ourNames parameterCount
    Parameters parameterShapes Part prepareMetroBatch prepareT5Batch Preset preset PresetName
    PRESETS seq2seq Seq2SeqInputs seq2seqInputs Seq2SeqOutputs specialIds T5Batch T5Model
    TokenBatch
  `,
  "tasks/mod.ts": `
    compareRuns Comparison convertModel convertTokenizer DevicesOptions encodePrompt evaluate EvaluateJob
    evaluateOnDevices Evaluation finetune FinetuneJob finetuneOnDevices FinetuneSettings
    generate Generated GenerateOptions Generator listCorpus LoadedModel loadModel loadTokenizer
    MetricRecord mixtureDatasets ModelOptions openTemplates openTensors pretrain PretrainConfig
    PretrainJob pretrainOnDevices rank Ranker RankerOptions RankRequest readMetrics readResults
    readRows Row summarize Summary T0_EVAL Template TemplateResult Templates TemplateSource
    Tensors Tokenizer TokenizerJson TokenizerOptions TrainDataset trainTokenizer trainUnigram
    writeEvaluation writeTensors
  `,
};

/** What is read here of `deno doc --json`. */
interface Documentation {
  nodes: Record<string, {
    module_doc?: { doc?: string };
    symbols: { name: string; declarations: Declaration[] }[];
  }>;
}

interface Declaration {
  kind: string;
  jsDoc?: { doc?: string; tags?: { kind: string }[] };
}

const entries = Object.keys(PUBLIC);
const listed = (entry: string) => PUBLIC[entry].trim().split(/\s+/);

const modules = (async () => {
  const args = ["doc", "--quiet", "--json", ...entries];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: ROOT })
    .output();
  assert.ok(success, new TextDecoder().decode(stderr));
  const { nodes }: Documentation = JSON.parse(new TextDecoder().decode(stdout));
  const found = Object.entries(nodes);
  return new Map(entries.map((entry) => {
    const suffix = "/" + entry;
    // The root's path is the shortest that ends like it.
    const [, module] = found.filter(([url]) => url.endsWith(suffix))
      .reduce((a, b) => a[0].length <= b[0].length ? a : b);
    return [entry, module];
  }));
})();

for (const entry of entries) {
  Deno.test(`${entry} exports what is listed here`, async () => {
    const { symbols } = (await modules).get(entry)!;
    assert.deepEqual(symbols.map(({ name }) => name).sort(), listed(entry).sort());
  });
}

Deno.test("deno.json has these entry points", async () => {
  const { exports } = JSON.parse(await Deno.readTextFile(join(ROOT, "deno.json")));
  assert.deepEqual(Object.values(exports), entries.map((entry) => `./${entry}`));
});

Deno.test("the names are few, and the root adds none", () => {
  const below = new Set(entries.slice(1).flatMap(listed));
  assert.ok(listed("mod.ts").length <= MOST_AT_ROOT);
  assert.ok(below.size <= MOST);
  assert.deepEqual(listed("mod.ts").filter((name) => !below.has(name)), []);
});

Deno.test("every name says what it is; functions and classes show it", async () => {
  const all = new Map<string, Declaration[]>();
  for (const [entry, { module_doc, symbols }] of await modules) {
    assert.ok(module_doc?.doc, `${entry} has no documentation`);
    // Where a name is exported again, there is but a reference to what is known already.
    for (const { name, declarations } of symbols) {
      all.set(name, [...all.get(name) ?? [], ...declarations]);
    }
  }
  for (const [name, declarations] of all) {
    assert.ok(declarations.some(({ jsDoc }) => jsDoc?.doc), `${name} has no documentation`);
    if (!declarations.some(({ kind }) => kind === "function" || kind === "class")) continue;
    const tags = declarations.flatMap(({ jsDoc }) => jsDoc?.tags ?? []);
    assert.ok(tags.some(({ kind }) => kind === "example"), `${name} has no @example`);
  }
});
