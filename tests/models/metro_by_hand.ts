/**
 * METRO's losses once more, straight from the paper (arXiv 2305.12567): equations 6 to 13, section 4.2's
 * layers and the variants of Table 4, as loops over plain numbers in float64, one sequence at a time and
 * without padding. Shares nothing with the code that it checks but the names and the [in, out] layout of the
 * weights; nothing here is fast.
 */

/** A row of numbers: features of a token, logits of a position. */
type Row = number[];

/** What there is to know about a model besides its weights. Sharing shows in which weights there are. */
export interface HandModel {
  heads: number;
  encoderLayers: number;
  decoderLayers: number;
  auxLayers: number;
  relativeBuckets: number;
  relativeMaxDistance: number;
  layerNormEps: number;
  rtdHead: "none" | "simple" | "roberta";
  mlmHead: "linear" | "roberta";
  clmHead: "linear" | "roberta";
}

/** Weights by name, row-major. */
export type HandWeights = Readonly<Record<string, ArrayLike<number>>>;

/** A sequence and what was made of it. No array is padded. */
export interface HandSequence {
  /** X^orig. */
  original: readonly number[];
  /** What the auxiliary model sees (6). */
  masked: readonly number[];
  /** The selected positions M, rising. */
  selected: readonly number[];
  /** X^noise (7). */
  noise: readonly number[];
  /** What the decoder sees: the start symbol, then what it writes, X^orig or its selected tokens, but the last. */
  decoderInput: readonly number[];
}

/** Which positions count in which loss, the variants of Table 4, and the weights of equation 13. */
export interface HandObjective {
  /** Positions that count: selected ones in the CLM loss (`lm`), in CLM and RTD (`both`), or all (`none`). */
  maskedPositionsOnly: "lm" | "none" | "both";
  weightedLmLoss: boolean;
  divideByMeanWeight: boolean;
  copyMechanism: boolean;
  labelSmoothing: number;
  rtdLocation: "encoder" | "decoder";
  mlmWeight: number;
  rtdWeight: number;
  clmWeight: number;
}

/** What the heads say of a sequence. */
export interface HandLogits {
  /** Of each selected position, over the vocabulary. */
  mlm: Row[];
  /** Of each token that the decoder writes, over the vocabulary. */
  clm: Row[];
  /** Of each position: positive for a replacement. */
  rtd?: Row;
}

/** The three losses, means as in equations 10 to 12, and their weighted sum (13). */
export interface HandLosses {
  mlm: number;
  rtd: number;
  clm: number;
  total: number;
}

const PAD = 1;
/** Row of the position table that the first token has; pads have the one before it. */
const FIRST_POSITION = 2;

/** Runs the model on a sequence: equations 7 to 9. */
export function logitsByHand(
  weights: HandWeights,
  model: HandModel,
  sequence: HandSequence,
  rtdLocation: "encoder" | "decoder",
): HandLogits {
  const aux = encoder(weights, model, "aux", sequence.masked);
  const encoded = encoder(weights, model, "encoder", sequence.noise);
  const decoded = decoder(weights, model, sequence.decoderInput, encoded, sequence.noise);
  const auxTable = weights["aux.embed.tokens"] ?? weights["embed.tokens"];
  return {
    mlm: sequence.selected.map((i) => lmHead(weights, model, "mlm", auxTable, aux[i])),
    clm: decoded.map((h) => lmHead(weights, model, "clm", weights["embed.tokens"], h)),
    ...(model.rtdHead !== "none" && {
      rtd: (rtdLocation === "encoder" ? encoded : decoded).map((h) => rtdHead(weights, model, h)),
    }),
  };
}

/** Where the decoder writes a position's token: there, or after the selected ones before it. */
function writtenAt(i: number, { clm }: HandLogits, { original, selected }: HandSequence): number {
  return clm.length === original.length ? i : selected.indexOf(i);
}

/**
 * Equations 10 to 13 of some sequences together.
 *
 * @param held where the weights of the CLM loss and the probabilities of copying come from, through which
 *   no gradient flows
 */
export function lossesByHand(
  logits: readonly HandLogits[],
  sequences: readonly HandSequence[],
  objective: HandObjective,
  held: readonly HandLogits[] = logits,
): HandLosses {
  const mlm: number[] = [], rtd: number[] = [], clm: number[] = [], weights: number[] = [];
  for (const [s, sequence] of sequences.entries()) {
    const { original, noise, selected } = sequence;
    for (const [slot, i] of selected.entries()) mlm.push(nll(logits[s].mlm[slot], original[i]));
    for (const i of original.keys()) {
      const isSelected = selected.includes(i), isReplaced = noise[i] !== original[i];
      const z = logits[s].rtd?.[i];
      if (z !== undefined && (isSelected || objective.maskedPositionsOnly !== "both")) {
        const replaced = sigmoid(z);
        rtd.push(-Math.log(isReplaced ? replaced : 1 - replaced));
      }
      if (!isSelected && objective.maskedPositionsOnly !== "none") continue;
      const written = logits[s].clm[writtenAt(i, logits[s], sequence)];
      let loss = smoothed(written, original[i], objective.labelSmoothing);
      if (objective.copyMechanism) {
        const isNew = sigmoid(held[s].rtd![i]);
        const copied = isReplaced ? 0 : 1 - isNew;
        loss = -Math.log(copied + isNew * Math.exp(-nll(written, original[i])));
      }
      clm.push(loss);
      weights.push(objective.weightedLmLoss ? sigmoid(held[s].rtd![i]) : 1);
    }
  }
  const meanWeight = objective.divideByMeanWeight && objective.weightedLmLoss ? mean(weights) : 1;
  const losses = {
    mlm: mean(mlm),
    rtd: rtd.length > 0 ? mean(rtd) : 0,
    clm: mean(clm.map((loss, i) => loss * weights[i] / meanWeight)),
  };
  const { mlmWeight, rtdWeight, clmWeight } = objective;
  const total = mlmWeight * losses.mlm + rtdWeight * losses.rtd + clmWeight * losses.clm;
  return { ...losses, total };
}

/** How often the heads are right. */
export interface HandCounts {
  /** Selected tokens that the auxiliary model finds most probable. */
  mlmCorrect: number;
  /** Replaced tokens. */
  replaced: number;
  /** Of these, those that the decoder finds most probable. */
  replacedCorrect: number;
  /** Replaced tokens that the RTD head takes for such. */
  replacedFound: number;
}

/** Counts what the heads get right. An undecided RTD head takes a token for replaced. */
export function countsByHand(
  logits: readonly HandLogits[],
  sequences: readonly HandSequence[],
): HandCounts {
  const counts = { mlmCorrect: 0, replaced: 0, replacedCorrect: 0, replacedFound: 0 };
  for (const [s, sequence] of sequences.entries()) {
    const { original, noise, selected } = sequence, { mlm, clm, rtd } = logits[s];
    for (const [slot, i] of selected.entries()) {
      counts.mlmCorrect += Number(best(mlm[slot]) === original[i]);
      // Only selected tokens can have been replaced, and these count whatever the variant.
      if (noise[i] === original[i]) continue;
      counts.replaced++;
      counts.replacedCorrect += Number(
        best(clm[writtenAt(i, logits[s], sequence)]) === original[i],
      );
      counts.replacedFound += Number(rtd !== undefined && rtd[i] >= 0);
    }
  }
  return counts;
}

/**
 * Whether a slope of a loss is what finite differences say. Where a ReLU bends between the two points, the
 * difference is none: a smaller step is tried, then.
 *
 * @param direction what the weights are moved along; weights that it lacks stay
 */
export function isSlope(
  loss: (weights: HandWeights) => number,
  weights: HandWeights,
  direction: HandWeights,
  slope: number,
): boolean {
  const moved = (by: number) => {
    const changed = Object.entries(direction).map(([name, along]) =>
      [name, Array.from(along, (d, i) => weights[name][i] + by * d)] as const
    );
    return loss({ ...weights, ...Object.fromEntries(changed) });
  };
  return [1e-5, 1e-6, 1e-7].some((step) => {
    const difference = (moved(step) - moved(-step)) / (2 * step);
    return Math.abs(difference - slope) <= 2e-6 * Math.max(1, Math.abs(slope));
  });
}

/** Takes a padded batch apart: one sequence for each row that holds any token. */
export function sequencesOf(
  batch: Record<"tokens" | "auxTokens" | "decoderTokens" | "inverse" | "noise", Uint32Array>,
  length: number,
): HandSequence[] {
  const rows = Array.from({ length: batch.tokens.length / length }, (_, row) => {
    const row0 = row * length;
    const used = Array.from({ length }, (_, i) => i).filter((i) => batch.tokens[row0 + i] !== PAD);
    const cut = (ids: Uint32Array) => used.map((i) => ids[row0 + i]);
    const selected = used.filter((i) => batch.inverse[row0 + i] !== 0xffffffff);
    // The decoder's rows have columns of their own where it writes the selected tokens alone.
    const columns = batch.decoderTokens.length / batch.tokens.length * length;
    const written = columns === length ? used.length : selected.length;
    return {
      original: cut(batch.tokens),
      masked: cut(batch.auxTokens),
      selected,
      noise: cut(batch.noise),
      decoderInput: Array.from(
        batch.decoderTokens.subarray(row * columns, row * columns + written),
      ),
    };
  });
  return rows.filter(({ original }) => original.length > 0);
}

// ---- Stacks ----

/** Bidirectional, with relative positions; pads are embedded as zeros and not attended to. */
function encoder(
  w: HandWeights,
  model: HandModel,
  stack: "encoder" | "aux",
  ids: readonly number[],
): Row[] {
  let x = embed(w, model, stack, ids).map((row, i) => ids[i] === PAD ? row.map(() => 0) : row);
  const layers = stack === "encoder" ? model.encoderLayers : model.auxLayers;
  for (let layer = 0; layer < layers; layer++) {
    const path = `${stack}.${layer}.attention`, table = w[`${path}.relative`];
    x = attention(w, model, path, x, x, (i, j, head) => {
      if (ids[j] === PAD) return undefined;
      return table[relativeRow(j - i, model) * model.heads + head];
    });
    x = feedForward(w, model, `${stack}.${layer}.ffn`, x);
  }
  return x;
}

/** Causal, with absolute positions alone. */
function decoder(
  w: HandWeights,
  model: HandModel,
  ids: readonly number[],
  memory: Row[],
  memoryIds: readonly number[],
): Row[] {
  let x = embed(w, model, "decoder", ids);
  for (let layer = 0; layer < model.decoderLayers; layer++) {
    const path = `decoder.${layer}`;
    x = attention(
      w,
      model,
      `${path}.attention`,
      x,
      x,
      (i, j) => j > i || ids[j] === PAD ? undefined : 0,
    );
    x = attention(
      w,
      model,
      `${path}.cross`,
      x,
      memory,
      (_, j) => memoryIds[j] === PAD ? undefined : 0,
    );
    x = feedForward(w, model, `${path}.ffn`, x);
  }
  return x;
}

/** LN(E[token] + P[position]); the auxiliary model uses the encoder's tables where it has none of its own. */
function embed(
  w: HandWeights,
  model: HandModel,
  stack: "encoder" | "decoder" | "aux",
  ids: readonly number[],
): Row[] {
  const own = (name: string) => w[`${stack}.embed.${name}`] ?? w[`encoder.embed.${name}`];
  const table = stack === "aux" ? w["aux.embed.tokens"] ?? w["embed.tokens"] : w["embed.tokens"];
  const width = own("norm.gain").length;
  let seen = 0;
  return ids.map((id) => {
    const position = id === PAD ? FIRST_POSITION - 1 : FIRST_POSITION + seen++;
    const x: Row = [];
    for (let c = 0; c < width; c++) {
      x.push(table[id * width + c] + own("positions")[position * width + c]);
    }
    return layerNorm(x, own("norm.gain"), own("norm.bias"), model.layerNormEps);
  });
}

/**
 * The row of a relative position table: distances have rows of their own up to a quarter of the rows, then
 * share rows by the logarithm, rounded up, those before the query mirrored by those behind it.
 */
export function relativeRow(
  delta: number,
  { relativeBuckets, relativeMaxDistance }: Pick<
    HandModel,
    "relativeBuckets" | "relativeMaxDistance"
  >,
): number {
  const half = relativeBuckets / 2, exact = half / 2, distance = Math.abs(delta);
  let bucket = distance;
  if (distance >= exact) {
    const share = Math.log(distance / exact) / Math.log((relativeMaxDistance - 1) / exact);
    bucket = Math.min(exact + Math.ceil(share * (half - 1 - exact)), half - 1);
  }
  return half - 1 + (delta < 0 ? -bucket : bucket);
}

// ---- Layers ----

/**
 * LN(x + Attention(x, memory)).
 *
 * @param biasOf what is added to the score of query i and key j; undefined where j is hidden
 */
function attention(
  w: HandWeights,
  model: HandModel,
  path: string,
  x: Row[],
  memory: Row[],
  biasOf: (i: number, j: number, head: number) => number | undefined,
): Row[] {
  const queries = x.map((row) => linear(w, `${path}.q`, row));
  const keys = memory.map((row) => linear(w, `${path}.k`, row));
  const values = memory.map((row) => linear(w, `${path}.v`, row));
  const width = x[0].length, headWidth = width / model.heads;
  return x.map((row, i) => {
    const mixed: Row = [];
    for (let head = 0; head < model.heads; head++) {
      const first = head * headWidth;
      const scores = memory.map((_, j) => {
        const bias = biasOf(i, j, head);
        if (bias === undefined) return -Infinity;
        let score = 0;
        for (let c = first; c < first + headWidth; c++) score += queries[i][c] * keys[j][c];
        return score / Math.sqrt(headWidth) + bias;
      });
      const probabilities = logProbabilities(scores).map(Math.exp);
      for (let c = first; c < first + headWidth; c++) {
        let sum = 0;
        for (const [j, p] of probabilities.entries()) sum += p * values[j][c];
        mixed.push(sum);
      }
    }
    return residual(w, model, path, row, linear(w, `${path}.out`, mixed));
  });
}

/** LN(x + W₂·ReLU(W₁x + b₁) + b₂). */
function feedForward(w: HandWeights, model: HandModel, path: string, x: Row[]): Row[] {
  return x.map((row) => {
    const hidden = linear(w, `${path}.in`, row).map(relu);
    return residual(w, model, path, row, linear(w, `${path}.out`, hidden));
  });
}

function residual(w: HandWeights, model: HandModel, path: string, x: Row, f: Row): Row {
  const sum = x.map((value, c) => value + f[c]);
  return layerNorm(sum, w[`${path}.norm.gain`], w[`${path}.norm.bias`], model.layerNormEps);
}

function linear(w: HandWeights, path: string, x: Row): Row {
  const weight = w[`${path}.weight`], bias = w[`${path}.bias`];
  const y: Row = [];
  for (let out = 0; out < bias.length; out++) {
    let sum = bias[out];
    for (let c = 0; c < x.length; c++) sum += x[c] * weight[c * bias.length + out];
    y.push(sum);
  }
  return y;
}

function layerNorm(x: Row, gain: ArrayLike<number>, bias: ArrayLike<number>, eps: number): Row {
  const middle = mean(x), variance = mean(x.map((value) => (value - middle) ** 2));
  return x.map((value, c) => (value - middle) / Math.sqrt(variance + eps) * gain[c] + bias[c]);
}

// ---- Heads ----

function lmHead(
  w: HandWeights,
  model: HandModel,
  name: "mlm" | "clm",
  table: ArrayLike<number>,
  h: Row,
): Row {
  const isDense = model[`${name}Head`] === "roberta";
  const features = isDense ? dense(w, model, name, h) : h;
  const logits: Row = [];
  for (let id = 0; id < table.length / h.length; id++) {
    let sum = isDense ? w[`${name}.bias`][id] : 0;
    for (let c = 0; c < h.length; c++) sum += features[c] * table[id * h.length + c];
    logits.push(sum);
  }
  return logits;
}

function rtdHead(w: HandWeights, model: HandModel, h: Row): number {
  return linear(w, "rtd.out", model.rtdHead === "roberta" ? dense(w, model, "rtd", h) : h)[0];
}

/** LN(ReLU(Wx + b)). */
function dense(w: HandWeights, model: HandModel, path: string, h: Row): Row {
  const x = linear(w, `${path}.dense`, h).map(relu);
  return layerNorm(x, w[`${path}.norm.gain`], w[`${path}.norm.bias`], model.layerNormEps);
}

// ---- Numbers ----

function logProbabilities(logits: Row): Row {
  const most = Math.max(...logits);
  const logSum = most + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - most), 0));
  return logits.map((x) => x - logSum);
}

function nll(logits: Row, target: number): number {
  return -logProbabilities(logits)[target];
}

/** The target's nll, some of whose weight goes to all other tokens in equal parts. */
function smoothed(logits: Row, target: number, smoothing: number): number {
  const share = smoothing / (logits.length - 1);
  return -logProbabilities(logits).reduce((sum, p, id) => {
    return sum + (id === target ? 1 - smoothing : share) * p;
  }, 0);
}

/** The first of the largest. */
function best(logits: Row): number {
  return logits.indexOf(Math.max(...logits));
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

function relu(x: number): number {
  return Math.max(x, 0);
}

function mean(x: readonly number[]): number {
  return x.reduce((sum, value) => sum + value, 0) / x.length;
}
