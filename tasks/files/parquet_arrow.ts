/**
 * What Arrow's writers note beside the schema of a Parquet file: zones, and durations, which Parquet has no
 * words for.
 *
 * @module
 */
import { type DataType, tableFromIPC, Type } from "@uwdata/flechette";

/** What a column of times is beyond what Parquet says. */
export interface ArrowTime {
  /** The zone in which moments print. */
  readonly zone?: string;
  /** How many nanoseconds a duration's unit has. */
  readonly duration?: bigint;
}

/** Longer schemas are nobody's. Characters. */
const MAX_NOTE = 1 << 22;
const NANOSECONDS = [1_000_000_000n, 1_000_000n, 1_000n, 1n];

/**
 * What Arrow notes about the columns of plain values, in their order; nothing if it notes none, or none
 * of these columns.
 */
export function arrowTimes(notes: ReadonlyMap<string, string>, columns: number): ArrowTime[] {
  const note = notes.get("ARROW:schema");
  if (note === undefined || note.length > MAX_NOTE) return [];
  try {
    const { fields } = tableFromIPC(Uint8Array.fromBase64(note)).schema;
    const types = fields.flatMap(({ type }) => leavesOf(type, 0));
    return types.length === columns ? types.map(timeOf) : [];
  } catch {
    return []; // the values are there without it
  }
}

function leavesOf(type: DataType, depth: number): DataType[] {
  if (depth > 100) throw new Error("nested too deeply");
  const children = "children" in type ? type.children : undefined;
  return children?.flatMap((child) => leavesOf(child.type, depth + 1)) ?? [type];
}

function timeOf(type: DataType): ArrowTime {
  if (type.typeId === Type.Timestamp) return { zone: type.timezone ?? undefined };
  return type.typeId === Type.Duration ? { duration: NANOSECONDS[type.unit] } : {};
}
