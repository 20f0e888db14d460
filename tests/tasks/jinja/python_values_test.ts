// Values that JavaScript has no types for, as Python prints, compares and calculates with them.

import assert from "node:assert/strict";
import { PyBytes } from "../../../tasks/jinja/bytes.ts";
import { decimalOf, PyDecimal } from "../../../tasks/jinja/decimal.ts";
import { compileTemplate } from "../../../tasks/jinja/evaluate.ts";
import { PyDate, PyDateTime, PyDuration, PyTime } from "../../../tasks/jinja/moments.ts";
import { compare, equals, repr, str } from "../../../tasks/jinja/python.ts";
import { PyFloat } from "../../../tasks/jinja/values.ts";

const SECOND = 1_000_000n, DAY = 86_400n * SECOND;
const bytes = (...values: number[]) => new PyBytes(Uint8Array.from(values));
/** 2020-01-02 03:04:05. */
const MOMENT = 1_577_934_245n * SECOND;
const moment = (zone?: string, more = 0n, nanosecond = 0) =>
  new PyDateTime(MOMENT + more, { zone, nanosecond });

Deno.test("values: print as Python prints them, alone and within lists", () => {
  const table: [value: unknown, text: string, repr: string][] = [
    [new PyDate(0), "1970-01-01", "datetime.date(1970, 1, 1)"],
    [new PyDate(-719162), "0001-01-01", "datetime.date(1, 1, 1)"],
    [new PyDate(11016), "2000-02-29", "datetime.date(2000, 2, 29)"],
    [new PyTime(0), "00:00:00", "datetime.time(0, 0)"],
    [new PyTime(3_723_000_000), "01:02:03", "datetime.time(1, 2, 3)"],
    [new PyTime(3_723_000_004), "01:02:03.000004", "datetime.time(1, 2, 3, 4)"],
    [new PyTime(3_600_000_004), "01:00:00.000004", "datetime.time(1, 0, 0, 4)"],
    [moment(), "2020-01-02 03:04:05", "datetime.datetime(2020, 1, 2, 3, 4, 5)"],
    [moment(undefined, -5n * SECOND), "2020-01-02 03:04:00", "datetime.datetime(2020, 1, 2, 3, 4)"],
    [
      moment("UTC", 10n),
      "2020-01-02 03:04:05.000010+00:00",
      "datetime.datetime(2020, 1, 2, 3, 4, 5, 10, tzinfo=zoneinfo.ZoneInfo(key='UTC'))",
    ],
    [
      moment("-03:30"),
      "2020-01-01 23:34:05-03:30",
      "datetime.datetime(2020, 1, 1, 23, 34, 5, tzinfo=datetime.timezone(datetime.timedelta(days=-1, seconds=73800)))",
    ],
    [
      moment("Europe/Berlin", 200n * DAY),
      "2020-07-20 05:04:05+02:00",
      "datetime.datetime(2020, 7, 20, 5, 4, 5, tzinfo=zoneinfo.ZoneInfo(key='Europe/Berlin'))",
    ],
    [
      moment(undefined, 0n, 7),
      "2020-01-02 03:04:05.000000007",
      "Timestamp('2020-01-02 03:04:05.000000007')",
    ],
    [
      new PyDateTime(-1n),
      "1969-12-31 23:59:59.999999",
      "datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)",
    ],
    [new PyDuration(0n), "0:00:00", "datetime.timedelta(0)"],
    [
      new PyDuration(DAY + 1n),
      "1 day, 0:00:00.000001",
      "datetime.timedelta(days=1, microseconds=1)",
    ],
    [
      new PyDuration(-1n),
      "-1 day, 23:59:59.999999",
      "datetime.timedelta(days=-1, seconds=86399, microseconds=999999)",
    ],
    [new PyDuration(2n * DAY), "2 days, 0:00:00", "datetime.timedelta(days=2)"],
    [new PyDecimal(110n, 2), "1.10", "Decimal('1.10')"],
    [new PyDecimal(-5n, 3), "-0.005", "Decimal('-0.005')"],
    [new PyDecimal(0n, 2), "0.00", "Decimal('0.00')"],
    [new PyDecimal(1n, 7), "1E-7", "Decimal('1E-7')"],
    [new PyDecimal(12n, 8), "1.2E-7", "Decimal('1.2E-7')"],
    [new PyDecimal(0n, 7), "0E-7", "Decimal('0E-7')"],
    [new PyDecimal(12n, -3), "1.2E+4", "Decimal('1.2E+4')"],
    [new PyDecimal(10n ** 37n, 0), "1" + "0".repeat(37), `Decimal('1${"0".repeat(37)}')`],
    [bytes(), "b''", "b''"],
    [bytes(97, 0, 255, 9, 92), "b'a\\x00\\xff\\t\\\\'", "b'a\\x00\\xff\\t\\\\'"],
    [bytes(39), `b"'"`, `b"'"`],
    [bytes(39, 34), `b'\\'"'`, `b'\\'"'`],
  ];
  for (const [value, text, shown] of table) {
    assert.equal(str(value), text);
    assert.equal(repr([value]), `[${shown}]`);
  }
});

Deno.test("values: compare with their own kind, and decimals with all numbers", () => {
  const rising: unknown[][] = [
    [new PyDate(-1), new PyDate(0), new PyDate(20000)],
    [new PyTime(0), new PyTime(1)],
    [moment(), moment(undefined, 0n, 1), moment(undefined, 1n)],
    [moment("UTC"), moment("+05:00", 1n), moment("Asia/Tokyo", SECOND)],
    [new PyDuration(-1n), new PyDuration(0n)],
    [
      -Infinity,
      -1,
      new PyDecimal(-5n, 1),
      0,
      new PyDecimal(1n, 1),
      0.1,
      0.5,
      new PyDecimal(11n, 1),
      Infinity,
    ],
    [bytes(), bytes(0), bytes(0, 0), bytes(1)],
  ];
  for (const values of rising) {
    for (const [i, a] of values.entries()) {
      for (const [j, b] of values.entries()) {
        assert.equal(Math.sign(compare(a, b)), Math.sign(i - j), `${str(a)} ${str(b)}`);
        assert.equal(equals(a, b), i === j);
      }
    }
  }
  assert.ok(equals(moment("UTC"), moment("Europe/Berlin")));
  assert.ok(equals(new PyDecimal(150n, 2), 1.5) && equals(2, new PyDecimal(20n, 1)));
  const strangers = [
    new PyDate(0),
    new PyTime(0),
    moment(),
    moment("UTC"),
    new PyDuration(0n),
    new PyDecimal(0n, 0),
    bytes(),
    "",
    null,
  ];
  for (const [i, a] of strangers.entries()) {
    for (const [j, b] of strangers.entries()) {
      if (i === j || typeof a === typeof b && typeof a !== "object") continue;
      assert.equal(equals(a, b), false);
      assert.throws(() => compare(a, b), /not supported between instances/);
    }
  }
});

Deno.test("values: decimals calculate exactly, and to 28 digits where there is no end", () => {
  const d = (text: string) => {
    const [whole, fraction = ""] = text.split(".");
    return new PyDecimal(BigInt(whole + fraction), fraction.length);
  };
  const table: [PyDecimal, string][] = [
    [d("1.10").plus(d("2.205")), "3.305"],
    [d("1.10").times(d("2.0")), "2.200"],
    [d("1").over(d("3")), "0.3333333333333333333333333333"],
    [d("2").over(d("3")), "0.6666666666666666666666666667"],
    [d("-2").over(d("3")), "-0.6666666666666666666666666667"],
    [d("1.00").over(d("4")), "0.25"],
    [d("2.40").over(d("2")), "1.20"],
    [d("100").over(d("5")), "20"],
    [d("9999999999999999999999999999").plus(d("0.5")), "1.000000000000000000000000000E+28"],
    [d("1234567890123456789012345678").plus(d("0.5")), "1234567890123456789012345678"],
    [d("2.5").toPlaces(0), "2"],
    [d("3.5").toPlaces(0), "4"],
    [d("-2.51").toPlaces(1), "-2.5"],
    [d("1").toPlaces(2), "1.00"],
  ];
  for (const [value, text] of table) assert.equal(str(value), text);
  assert.equal(str(decimalOf(0.1, true)).slice(0, 20), "0.100000000000000005");
  assert.equal(decimalOf(new PyFloat(1)), undefined);
  assert.equal(new PyDecimal(-19n, 1).toInteger(), -1n);
  assert.equal(new PyDecimal(-19n, -1).toInteger(), -190n);
});

Deno.test("values: dates move, and are so long after one another", () => {
  assert.equal(str(new PyDate(0).moved(new PyDuration(DAY + 5n), 1n)), "1970-01-02");
  assert.equal(str(new PyDate(10).since(new PyDate(0))), "10 days, 0:00:00");
  assert.equal(str(moment("UTC").since(moment("Asia/Tokyo", -SECOND))), "0:00:01");
  assert.equal(moment().since(moment("UTC")), undefined);
  // Clocks go forward on 29 March 2020: 03:04:05 stays what the clock shows.
  const later = moment("Europe/Berlin", 80n * DAY).moved(new PyDuration(10n * DAY), 1n);
  assert.equal(str(later), "2020-04-01 04:04:05+02:00");
});

Deno.test("values: templates read their attributes and call their methods", () => {
  const render = (source: string, x: unknown) => compileTemplate(source).render({ x });
  assert.equal(render("{{ x.year }}-{{ x.month }}-{{ x.day }}", new PyDate(18263)), "2020-1-2");
  assert.equal(
    render("{{ x.strftime('%A %d %B %Y, %-I:%M %p, %j %y%%') }}", moment()),
    "Thursday 02 January 2020, 3:04 AM, 002 20%",
  );
  assert.equal(render("{{ x.isoformat() }}", moment("UTC")), "2020-01-02T03:04:05+00:00");
  assert.equal(
    render("{{ x.date() }} {{ x.time() }} {{ x.weekday() }}", moment()),
    "2020-01-02 03:04:05 3",
  );
  assert.equal(
    render("{{ x.days }} {{ x.seconds }} {{ x.total_seconds() }}", new PyDuration(-DAY)),
    "-1 0 -86400.0",
  );
  assert.equal(render("{{ x | length }} {{ x.hex() }}", bytes(1, 255)), "2 01ff");
  assert.equal(render("{{ x.decode('latin-1') }}", bytes(233)), "é");
  assert.equal(
    render("{{ x + 1 }} {{ 2 * x }} {{ x < 2.0 }}", new PyDecimal(110n, 2)),
    "2.10 2.20 True",
  );
  assert.throws(() => render("{{ x + 1.5 }}", new PyDecimal(110n, 2)), /unsupported operand/);
  assert.throws(() => render("{{ x.strftime('%Q') }}", moment()), /%Q is not supported/);
  assert.throws(() => render("{{ x }}", new PyDate(3_000_000)), /only years 1 to 9999/);
});

Deno.test("values: have a text in JSON, even those that Python cannot hold", () => {
  const row = {
    a: new PyDate(3_000_000),
    b: moment("UTC"),
    c: new PyDecimal(110n, 2),
    d: bytes(97),
  };
  assert.equal(
    JSON.stringify(row),
    '{"a":"10183-09-21","b":"2020-01-02 03:04:05+00:00","c":"1.10","d":"b\'a\'"}',
  );
});
