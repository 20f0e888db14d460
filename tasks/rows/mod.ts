/**
 * Rows of datasets in the Hub's field names: found in a folder, streamed, and read by number.
 *
 * @module
 */

export { adaptRow } from "./adapt.ts";
export { datasetsIn, splitsOf } from "./find.ts";
export { type IndexRequest, indexRows, type RowIndex, type RowPart } from "./row_index.ts";
export type { OnBad } from "./json.ts";
export {
  groupScoreEval,
  isP3,
  isScoreEval,
  type P3Example,
  p3Example,
  type ScoredExample,
} from "./p3.ts";
export { type ReadRow, readRows } from "./stream.ts";
export { openRows, type RowReader } from "./random_access.ts";
export { Float, type Row } from "./row.ts";
export { rowText } from "./stored.ts";
