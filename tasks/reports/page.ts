/**
 * The frame and the look that our HTML pages share: no script, no network, light and dark, readable on
 * a phone and by a screen reader.
 *
 * @module
 */

/** The CSS variables of the colors that tell curves, or runs, apart. */
export const COLORS: readonly string[] = ["first", "second", "third", "fourth", "fifth", "sixth"]
  .map((name) => `var(--${name})`);

/** What stands on a page. */
export interface Page {
  /** Its title and heading, as plain text. */
  title: string;
  /** What follows the heading, as HTML. */
  body: string;
}

/**
 * A whole HTML page.
 *
 * @example
 * ```ts
 * import { htmlPage } from "./page.ts";
 * import assert from "node:assert/strict";
 *
 * const page = htmlPage({ title: "a & b", body: "<p>Hello.</p>" });
 * assert.match(page, /<h1>a &amp; b<\/h1>\n<p>Hello\.<\/p>/);
 * ```
 */
export function htmlPage({ title, body }: Page): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>${escapeHtml(title)}</h1>
${body}
</main>
</body>
</html>
`;
}

/**
 * A row of cards with one figure each, as HTML; cards without a value are left out.
 *
 * @param figures names and values, as plain text
 *
 * @example
 * ```ts
 * import { cards } from "./page.ts";
 * import assert from "node:assert/strict";
 *
 * assert.match(cards([["Updates", "300"], ["Loss", undefined]]), /<dt>Updates<\/dt><dd>300<\/dd>/);
 * ```
 */
export function cards(figures: readonly (readonly [string, string | undefined])[]): string {
  const shown = figures.filter((card): card is [string, string] => card[1] !== undefined);
  const items = shown.map(([name, value]) =>
    `<div><dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd></div>`
  );
  return `<dl class="cards">\n${items.join("\n")}\n</dl>`;
}

/**
 * Text as it must stand in HTML.
 *
 * @example
 * ```ts
 * import { escapeHtml } from "./page.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(escapeHtml('<"&">'), "&lt;&quot;&amp;&quot;&gt;");
 * ```
 */
export function escapeHtml(text: string): string {
  const entities: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
  };
  return text.replace(/[&<>"]/g, (sign) => entities[sign]);
}

const STYLE = `
:root {
  --text: #1c2430; --muted: #5b6675; --line: #dfe4ea; --page: #f6f7f9; --card: #ffffff;
  --first: #1f6fb5; --second: #c2510c; --third: #23805a;
  --fourth: #8a4fb0; --fifth: #8a6d00; --sixth: #b23a6b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6eaf0; --muted: #a3aebd; --line: #323b47; --page: #12161c; --card: #1b2129;
    --first: #6fb6ff; --second: #ff9d5c; --third: #62cf9d;
    --fourth: #cf9bf2; --fifth: #dcbd4b; --sixth: #f58bb5;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.75rem; }
dl, dd { margin: 0; }
dt, small, .legend { color: var(--muted); }
.cards { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.cards > div, figure, table, .config {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
.cards > div { flex: 1 1 7.5rem; padding: 0.6rem 0.9rem; }
.cards dt { font-size: 0.85rem; }
.cards dd { font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.legend { margin: 1rem 0 0; font-size: 0.9rem; }
.charts { --narrowest: 300px; display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--narrowest)), 1fr)); gap: 0.75rem; }
.losses { --narrowest: 400px; }
figure { margin: 0; padding: 0.75rem 0.9rem 0.5rem; display: flex; flex-direction: column; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; column-gap: 1rem; font-weight: 600; margin-bottom: 0.4rem; }
figure svg { display: block; width: 100%; height: auto; margin-top: auto; }
.key { font-weight: 400; font-size: 0.85rem; color: var(--muted); margin-left: 0.8rem; white-space: nowrap; }
.key:first-child { margin-left: 0; }
.swatch { display: inline-block; width: 0.9rem; height: 0.25rem; border-radius: 2px; margin-right: 0.35rem; vertical-align: middle; }
.s1 { background: var(--first); }
.s2 { background: var(--second); }
.s3 { background: var(--third); }
.s4 { background: var(--fourth); }
.s5 { background: var(--fifth); }
.s6 { background: var(--sixth); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; overflow: hidden; }
th, td { padding: 0.4rem 0.9rem; text-align: right; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
tfoot > tr > * { border-top: 1px solid var(--line); border-bottom: 0; }
.legend + .charts { margin-top: 0.75rem; }
.scroll { overflow-x: auto; }
.scroll th, .scroll td { padding-inline: 0.6rem; }
.scroll td { white-space: nowrap; }
.templates td:nth-child(2), .templates th:nth-child(2) { text-align: left; white-space: normal; width: 45%; min-width: 10rem; }
details > summary { cursor: pointer; margin: 1rem 0 0.75rem; }
.config { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); column-gap: 2rem; padding: 0.6rem 0.9rem; }
.config > div { display: flex; justify-content: space-between; gap: 1rem; padding: 0.15rem 0; }
.config dd { text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
`;
