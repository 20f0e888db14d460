/**
 * Python's `datetime`: dates, times, both, and durations, as columns of these types give them to
 * templates. They print, compare and have the attributes that they have in Python.
 *
 * What lies beyond the years 1 to 9999 can be held but not printed, since Python cannot even hold it.
 *
 * @module
 */
import { Callable, JinjaError, PyObject, toFloat } from "./values.ts";

const DAY = 86_400_000_000;
const MONTHS =
  "January February March April May June July August September October November December"
    .split(" ");
const WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(" ");

const pad = (value: number, length = 2) => String(value).padStart(length, "0");

/** A day in the proleptic Gregorian calendar, counted from 1970-01-01. */
class Day {
  readonly #date: Date;

  constructor(readonly number: number) {
    this.#date = new Date(number * 86_400_000);
  }

  get year(): number {
    return this.#date.getUTCFullYear();
  }
  get month(): number {
    return this.#date.getUTCMonth() + 1;
  }
  get day(): number {
    return this.#date.getUTCDate();
  }
  /** 0 is Monday. */
  get weekday(): number {
    return (this.#date.getUTCDay() + 6) % 7;
  }
  get dayOfYear(): number {
    const first = new Date(0);
    first.setUTCFullYear(this.year, 0, 1);
    return (this.#date.getTime() - first.getTime()) / 86_400_000 + 1;
  }
  get iso(): string {
    return `${pad(this.year, 4)}-${pad(this.month)}-${pad(this.day)}`;
  }
  /** Throws where Python has no such day. */
  check(): void {
    const { year } = this;
    if (year >= 1 && year <= 9999) return;
    throw new JinjaError("OverflowError", "date value out of range: only years 1 to 9999 print");
  }
}

/** A time of day in microseconds. */
class Clock {
  constructor(readonly microseconds: number) {}

  get hour(): number {
    return Math.floor(this.microseconds / 3_600_000_000);
  }
  get minute(): number {
    return Math.floor(this.microseconds / 60_000_000) % 60;
  }
  get second(): number {
    return Math.floor(this.microseconds / 1_000_000) % 60;
  }
  get microsecond(): number {
    return this.microseconds % 1_000_000;
  }
  get iso(): string {
    const { microsecond } = this;
    return `${pad(this.hour)}:${pad(this.minute)}:${pad(this.second)}` +
      (microsecond > 0 ? `.${pad(microsecond, 6)}` : "");
  }
  /** Arguments of `repr`: what is zero at the end is left out. */
  get args(): number[] {
    const { hour, minute, second, microsecond } = this;
    if (microsecond > 0) return [hour, minute, second, microsecond];
    return second > 0 ? [hour, minute, second] : [hour, minute];
  }
}

/** What can be moved by a duration, and be so long after another. */
export abstract class PyMoment extends PyObject {
  /** Later by a duration; `sign` -1 is earlier. */
  abstract moved(duration: PyDuration, sign: 1n | -1n): PyMoment;

  /** The duration since another of its kind; `undefined` if it is of none. */
  abstract since(other: unknown): PyDuration | undefined;
}

/**
 * `datetime.date`.
 *
 * @example
 * ```ts
 * import { PyDate } from "./moments.ts";
 * import { repr, str } from "./python.ts";
 * import assert from "node:assert/strict";
 *
 * const day = new PyDate(18263);
 * assert.equal(str(day), "2020-01-02");
 * assert.equal(repr(day), "datetime.date(2020, 1, 2)");
 * ```
 */
export class PyDate extends PyMoment {
  /** Python's name of its type. */
  readonly type = "date";
  readonly #day: Day;

  /** A day by its number, where 0 is 1970-01-01. */
  constructor(days: number) {
    super();
    this.#day = new Day(days);
  }

  /** `str(value)`. */
  override text(): string {
    this.#day.check();
    return this.#day.iso;
  }

  /** `repr(value)`. */
  override repr(): string {
    this.#day.check();
    const { year, month, day } = this.#day;
    return `datetime.date(${year}, ${month}, ${day})`;
  }

  /** Sorts with dates alone. */
  override compareTo(other: unknown): number | undefined {
    return other instanceof PyDate ? this.#day.number - other.#day.number : undefined;
  }

  /** What equal ones have in common. */
  override get hash(): string {
    return `date ${this.#day.number}`;
  }

  /** Moved by whole days. */
  override moved(duration: PyDuration, sign: 1n | -1n): PyDate {
    return new PyDate(this.#day.number + Number(duration.days * sign));
  }

  /** Whole days. */
  override since(other: unknown): PyDuration | undefined {
    if (!(other instanceof PyDate)) return undefined;
    return new PyDuration(BigInt(this.#day.number - other.#day.number) * BigInt(DAY));
  }

  /** `year`, `month`, `day`, and Python's methods that print them. */
  override attribute(name: string): unknown {
    this.#day.check();
    return dayAttribute(this.#day, name) ??
      method(name, {
        isoformat: () => this.#day.iso,
        strftime: ([format]) => strftime(format, this.#day, new Clock(0)),
      });
  }

  /** What `JSON.stringify` writes. */
  toJSON(): string {
    return this.#day.iso;
  }
}

/**
 * `datetime.time`, without a zone.
 *
 * @example
 * ```ts
 * import { PyTime } from "./moments.ts";
 * import { repr, str } from "./python.ts";
 * import assert from "node:assert/strict";
 *
 * const time = new PyTime(3_723_000_000);
 * assert.equal(str(time), "01:02:03");
 * assert.equal(repr(time), "datetime.time(1, 2, 3)");
 * ```
 */
export class PyTime extends PyObject {
  /** Python's name of its type. */
  readonly type = "time";
  readonly #clock: Clock;

  /** A time by the microseconds since midnight. */
  constructor(microseconds: number) {
    super();
    this.#clock = new Clock(microseconds);
  }

  /** `str(value)`. */
  override text(): string {
    return this.#clock.iso;
  }

  /** `repr(value)`. */
  override repr(): string {
    return `datetime.time(${this.#clock.args.join(", ")})`;
  }

  /** Sorts with times alone. */
  override compareTo(other: unknown): number | undefined {
    if (!(other instanceof PyTime)) return undefined;
    return this.#clock.microseconds - other.#clock.microseconds;
  }

  /** What equal ones have in common. */
  override get hash(): string {
    return `time ${this.#clock.microseconds}`;
  }

  /** `hour`, `minute`, `second`, `microsecond`, and Python's methods that print them. */
  override attribute(name: string): unknown {
    return clockAttribute(this.#clock, name) ??
      method(name, {
        isoformat: () => this.#clock.iso,
        strftime: ([format]) => strftime(format, new Day(-25567), this.#clock),
      });
  }

  /** What `JSON.stringify` writes. */
  toJSON(): string {
    return this.#clock.iso;
  }
}

/**
 * `datetime.datetime`, with or without a zone.
 *
 * @example
 * ```ts
 * import { PyDateTime } from "./moments.ts";
 * import { repr, str } from "./python.ts";
 * import assert from "node:assert/strict";
 *
 * const moment = new PyDateTime(1_577_934_245_000_000n);
 * assert.equal(str(moment), "2020-01-02 03:04:05");
 * assert.equal(repr(moment), "datetime.datetime(2020, 1, 2, 3, 4, 5)");
 * assert.equal(str(new PyDateTime(1_577_934_245_000_000n, { zone: "UTC" })), "2020-01-02 03:04:05+00:00");
 * ```
 */
export class PyDateTime extends PyMoment {
  /** Python's name of its type. */
  readonly type = "datetime";
  readonly #instant: bigint;
  readonly #nanosecond: number;
  readonly #zone?: string;
  /** Seconds ahead of UTC. */
  readonly #offset: number;
  readonly #day: Day;
  readonly #clock: Clock;

  /**
   * A moment by its microseconds since 1970, in UTC if it has a zone, and where the clock stands if it
   * has none.
   *
   * @param options `zone`: `UTC`, an offset (`+01:00`) or a name of the zone database; `nanosecond`: beyond the
   *   microseconds, 0 to 999, which pandas prints
   * @throws {RangeError} an unknown zone
   */
  constructor(
    microseconds: bigint,
    { zone, nanosecond = 0 }: { zone?: string; nanosecond?: number } = {},
  ) {
    super();
    this.#instant = microseconds;
    this.#nanosecond = nanosecond;
    this.#zone = zone;
    this.#offset = zone === undefined ? 0 : offsetOf(zone, microseconds);
    const local = microseconds + BigInt(this.#offset) * 1_000_000n;
    const inDay = ((local % BigInt(DAY)) + BigInt(DAY)) % BigInt(DAY);
    this.#day = new Day(Number((local - inDay) / BigInt(DAY)));
    this.#clock = new Clock(Number(inDay));
  }

  #iso(between: string): string {
    const nanosecond = this.#nanosecond > 0
      ? `${this.#clock.microsecond > 0 ? "" : ".000000"}${pad(this.#nanosecond, 3)}`
      : "";
    const zone = this.#zone === undefined ? "" : offsetText(this.#offset);
    return `${this.#day.iso}${between}${this.#clock.iso}${nanosecond}${zone}`;
  }

  /** `str(value)`. */
  override text(): string {
    this.#day.check();
    return this.#iso(" ");
  }

  /** `repr(value)`. */
  override repr(): string {
    this.#day.check();
    if (this.#nanosecond > 0) {
      const zone = this.#zone === undefined ? "" : `, tz='${this.#zone}'`;
      return `Timestamp('${this.#iso(" ")}'${zone})`;
    }
    const { year, month, day } = this.#day;
    const zone = this.#zone === undefined ? [] : [`tzinfo=${zoneRepr(this.#zone, this.#offset)}`];
    return `datetime.datetime(${[year, month, day, ...this.#clock.args, ...zone].join(", ")})`;
  }

  /** Sorts with moments that have a zone if it has one, and with those that have none if not. */
  override compareTo(other: unknown): number | undefined {
    if (!(other instanceof PyDateTime)) return undefined;
    if ((this.#zone === undefined) !== (other.#zone === undefined)) return undefined;
    return Number(this.#instant - other.#instant) || this.#nanosecond - other.#nanosecond;
  }

  /** What equal ones have in common. */
  override get hash(): string {
    return `datetime ${this.#zone !== undefined} ${this.#instant} ${this.#nanosecond}`;
  }

  /** Moved as its clock shows it, whatever its zone does meanwhile. */
  override moved(duration: PyDuration, sign: 1n | -1n): PyDateTime {
    const zone = this.#zone, moved = this.#instant + duration.length * sign;
    const same = new PyDateTime(moved, { zone, nanosecond: this.#nanosecond });
    return same.#offset === this.#offset
      ? same
      : new PyDateTime(moved + BigInt(this.#offset - same.#offset) * 1_000_000n, { zone });
  }

  /** Since a moment that has a zone if this has one. */
  override since(other: unknown): PyDuration | undefined {
    if (this.compareTo(other) === undefined) return undefined;
    return new PyDuration(this.#instant - (other as PyDateTime).#instant);
  }

  /** Attributes of its date and of its time, and Python's methods that print or split it. */
  override attribute(name: string): unknown {
    this.#day.check();
    const seconds = () => toFloat(Number(this.#instant) / 1e6);
    return dayAttribute(this.#day, name) ?? clockAttribute(this.#clock, name) ??
      method(name, {
        date: () => new PyDate(this.#day.number),
        isoformat: ([between = "T"]) => this.#iso(String(between)),
        strftime: ([format]) =>
          strftime(format, this.#day, this.#clock, this.#zone && offsetText(this.#offset)),
        time: () => new PyTime(this.#clock.microseconds),
        // Without a zone Python asks the machine for its own.
        ...(this.#zone === undefined ? {} : { timestamp: seconds }),
      });
  }

  /** What `JSON.stringify` writes. */
  toJSON(): string {
    return this.#iso(" ");
  }
}

/**
 * `datetime.timedelta`.
 *
 * @example
 * ```ts
 * import { PyDuration } from "./moments.ts";
 * import { repr, str } from "./python.ts";
 * import assert from "node:assert/strict";
 *
 * const duration = new PyDuration(-1_000_000n);
 * assert.equal(str(duration), "-1 day, 23:59:59");
 * assert.equal(repr(duration), "datetime.timedelta(days=-1, seconds=86399)");
 * ```
 */
export class PyDuration extends PyMoment {
  /** Python's name of its type. */
  readonly type = "timedelta";
  /** Microseconds. */
  readonly length: bigint;
  /** Whole days, downwards. */
  readonly days: bigint;
  readonly #rest: number;

  /** A duration in microseconds. */
  constructor(microseconds: bigint) {
    super();
    const day = BigInt(DAY), rest = ((microseconds % day) + day) % day;
    this.length = microseconds;
    this.#rest = Number(rest);
    this.days = (microseconds - rest) / day;
  }

  /** `str(value)`. */
  override text(): string {
    const clock = new Clock(this.#rest), days = this.days;
    const time = clock.hour < 10 ? clock.iso.slice(1) : clock.iso;
    if (days === 0n) return time;
    return `${days} day${days === 1n || days === -1n ? "" : "s"}, ${time}`;
  }

  /** `repr(value)`. */
  override repr(): string {
    const seconds = Math.floor(this.#rest / 1e6), microseconds = this.#rest % 1e6;
    const parts = [
      ...(this.days === 0n ? [] : [`days=${this.days}`]),
      ...(seconds === 0 ? [] : [`seconds=${seconds}`]),
      ...(microseconds === 0 ? [] : [`microseconds=${microseconds}`]),
    ];
    return `datetime.timedelta(${parts.join(", ") || "0"})`;
  }

  /** Sorts with durations alone. */
  override compareTo(other: unknown): number | undefined {
    return other instanceof PyDuration ? Number(this.length - other.length) : undefined;
  }

  /** Whether it is not zero. */
  override truthy(): boolean {
    return this.length !== 0n;
  }

  /** What equal ones have in common. */
  override get hash(): string {
    return `timedelta ${this.length}`;
  }

  /** Longer by another; `sign` -1 is shorter. */
  override moved(duration: PyDuration, sign: 1n | -1n): PyDuration {
    return new PyDuration(this.length + duration.length * sign);
  }

  /** Durations are moved by one another. */
  override since(_other: unknown): undefined {}

  /** `days`, `seconds`, `microseconds`, `total_seconds()`. */
  override attribute(name: string): unknown {
    switch (name) {
      case "days":
        return Number(this.days);
      case "seconds":
        return Math.floor(this.#rest / 1e6);
      case "microseconds":
        return this.#rest % 1e6;
      case "total_seconds":
        return new Callable(name, () => toFloat(Number(this.length) / 1e6));
    }
    return undefined;
  }

  /** What `JSON.stringify` writes. */
  toJSON(): string {
    return this.text();
  }
}

// --- attributes ---

function dayAttribute(day: Day, name: string): unknown {
  switch (name) {
    case "year":
    case "month":
    case "day":
      return day[name];
    case "weekday":
      return new Callable(name, () => day.weekday);
    case "isoweekday":
      return new Callable(name, () => day.weekday + 1);
  }
}

function clockAttribute(clock: Clock, name: string): unknown {
  switch (name) {
    case "hour":
    case "minute":
    case "second":
    case "microsecond":
      return clock[name];
  }
}

function method(
  name: string,
  methods: Readonly<Record<string, (args: readonly unknown[]) => unknown>>,
): Callable | undefined {
  return Object.hasOwn(methods, name) ? new Callable(name, methods[name]) : undefined;
}

/** `strftime` in the C locale, as Python has it unless told otherwise. */
function strftime(format: unknown, day: Day, clock: Clock, zone?: string): string {
  if (typeof format !== "string") {
    throw new JinjaError("TypeError", "strftime: expected a format as a text");
  }
  return format.replace(/%(-?)([^]?)/gu, (directive, bare, letter) => {
    const text = directiveText(letter, day, clock, zone);
    if (text === undefined) {
      throw new JinjaError("ValueError", `strftime: ${directive} is not supported`);
    }
    return bare === "" ? text : text.replace(/^[0 ]+(?=.)/, "");
  });
}

function directiveText(
  letter: string,
  day: Day,
  clock: Clock,
  zone = "",
): string | undefined {
  const of = (format: string) => format.replace(/\w/g, (l) => directiveText(l, day, clock)!);
  const texts: Readonly<Record<string, () => string>> = {
    "%": () => "%",
    A: () => WEEKDAYS[day.weekday],
    B: () => MONTHS[day.month - 1],
    D: () => of("m/d/y"),
    F: () => of("Y-m-d"),
    H: () => pad(clock.hour),
    I: () => pad(clock.hour % 12 || 12),
    M: () => pad(clock.minute),
    R: () => of("H:M"),
    S: () => pad(clock.second),
    T: () => of("H:M:S"),
    X: () => of("H:M:S"),
    Y: () => String(day.year),
    a: () => WEEKDAYS[day.weekday].slice(0, 3),
    b: () => MONTHS[day.month - 1].slice(0, 3),
    c: () => of("a b e H:M:S Y"),
    d: () => pad(day.day),
    e: () => String(day.day).padStart(2),
    f: () => pad(clock.microsecond, 6),
    j: () => pad(day.dayOfYear, 3),
    m: () => pad(day.month),
    p: () => clock.hour < 12 ? "AM" : "PM",
    u: () => String(day.weekday + 1),
    w: () => String((day.weekday + 1) % 7),
    x: () => of("m/d/y"),
    y: () => pad(day.year % 100),
    z: () => zone.replaceAll(":", ""),
  };
  return Object.hasOwn(texts, letter) ? texts[letter]() : undefined;
}

// --- zones ---

/** Seconds that a zone is ahead of UTC at a moment. */
function offsetOf(zone: string, microseconds: bigint): number {
  if (isUtc(zone)) return 0;
  const fixed = /^([+-])(\d\d):?(\d\d)$/.exec(zone);
  const text = fixed ? zone : gmtOffset(zone, Number(microseconds / 1000n));
  const [, sign, hours, minutes, seconds = "0"] = /([+-])(\d\d):?(\d\d)(?::(\d\d))?$/.exec(text) ??
    ["", "+", "0", "0"];
  const size = Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds);
  return sign === "-" ? -size : size;
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** `GMT+01:00` for a zone of the database. */
function gmtOffset(zone: string, milliseconds: number): string {
  let format = formats.get(zone);
  if (!format) {
    format = new Intl.DateTimeFormat("en-US", { timeZone: zone, timeZoneName: "longOffset" });
    formats.set(zone, format);
  }
  const moment = Math.max(-8.64e15, Math.min(8.64e15, milliseconds));
  return format.formatToParts(moment).find(({ type }) => type === "timeZoneName")!.value;
}

function offsetText(seconds: number): string {
  const size = Math.abs(seconds), rest = size % 60;
  return `${seconds < 0 ? "-" : "+"}${pad(Math.floor(size / 3600))}:${
    pad(Math.floor(size / 60) % 60)
  }` +
    (rest > 0 ? `:${pad(rest)}` : "");
}

function isUtc(zone: string): boolean {
  return zone === "UTC" || zone === "Z" || zone === "+00:00";
}

function zoneRepr(zone: string, offset: number): string {
  if (zone === "Z" || zone === "+00:00") return "datetime.timezone.utc";
  if (!/^[+-]/.test(zone)) return `zoneinfo.ZoneInfo(key='${zone}')`;
  return `datetime.timezone(${new PyDuration(BigInt(offset) * 1_000_000n).repr()})`;
}
