// Names and texts from outside, on a terminal.

import assert from "node:assert/strict";
import { printable, printableText } from "../../../tasks/command/printable.ts";

/** What ECMA-48 and Unicode's bidirectional algorithm act on, by their numbers. */
const ACTS = [
  ...Array.from({ length: 32 }, (_, i) => i),
  ...Array.from({ length: 33 }, (_, i) => 0x7f + i),
  ...[0x61c, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e],
  ...[0x2066, 0x2067, 0x2068, 0x2069, 0xd800, 0xdfff],
];

Deno.test("printable: a terminal gets none of the characters that it acts on", () => {
  for (const code of ACTS) {
    const character = String.fromCodePoint(code);
    assert.equal(printable(`a${character}b`), `a\\u{${code.toString(16)}}b`);
    const stays = code === 9 || code === 10;
    assert.equal(printableText(character), stays ? character : `\\u{${code.toString(16)}}`);
  }
});

Deno.test("printable: all other text stays as it is", () => {
  for (
    const text of [
      "",
      "a b",
      "é e\u0301",
      "漢字 カ゛",
      "👩‍👩‍👧 🇩🇪",
      "عربي עברית",
      "a\u00adb\ufeff",
      "\\u{1b}",
    ]
  ) {
    assert.equal(printable(text), text);
    assert.equal(printableText(text), text);
  }
});
