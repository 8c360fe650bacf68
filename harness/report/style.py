"""How the page looks: one column on a phone, two figures side by side on a desk, black on white on paper."""

from typing import Final

CSS: Final = """
:root {
  --ink: #1b2430; --soft: #5a6675; --paper: #ffffff; --card: #f6f7f9; --line: #dde2e8; --grid: #d5dae1;
  --accent: #0b63a5; --win: #e3f1ea; --win-ink: #0c5a3c; --warn: #9a4a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e7ebf0; --soft: #9fabb9; --paper: #14181e; --card: #1c222a; --line: #323b46; --grid: #333d49;
    --accent: #7cbcf0; --win: #17372b; --win-ink: #9be0c0; --warn: #f0ad6a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%;
}
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1, h2, h3, h4, p, dl, ul, figure { margin: 0; }
h1 { font-size: clamp(1.9rem, 5vw, 2.9rem); line-height: 1.15; letter-spacing: -0.02em; font-weight: 680; }
h1 em { font-style: normal; color: var(--accent); }
h2 { font-size: 1.6rem; letter-spacing: -0.01em; margin: 3.2rem 0 0.3rem; line-height: 1.25; }
h3 { font-size: 1.12rem; margin: 2.4rem 0 0.8rem; }
h4 { font-size: 0.98rem; font-weight: 620; margin: 0 0 0.5rem; line-height: 1.35; }
.kicker { color: var(--accent); font-weight: 600; font-size: 0.92rem; margin-bottom: 0.4rem; }
.facts { margin-top: 0.8rem; font-size: 1.05rem; }
.names, .setting { color: var(--soft); overflow-wrap: anywhere; }
.tiles {
  list-style: none; padding: 0; margin: 1.4rem 0 0; display: grid; gap: 0.9rem;
  grid-template-columns: repeat(auto-fit, minmax(210px, 1fr));
}
.tiles li { background: var(--card); border-radius: 12px; padding: 1rem 1.15rem; }
.tiles li { display: grid; grid-template-rows: 1fr auto auto; }
.tiles .what { color: var(--soft); font-size: 0.9rem; }
.tiles b { font-size: 1.85rem; line-height: 1.3; font-weight: 650; letter-spacing: -0.02em; }
.tiles span { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 12px; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.5rem 0.7rem; text-align: left; white-space: nowrap; }
thead th { font-weight: 600; font-size: 0.83rem; line-height: 1.3; color: var(--soft); }
thead th { vertical-align: bottom; }
thead th.group { color: var(--ink); border-left: 1px solid var(--line); padding-bottom: 0; }
thead tr:last-child th { border-bottom: 1px solid var(--line); }
thead small { font-weight: 400; font-size: 0.95em; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody th { font-weight: 600; background: var(--paper); position: sticky; left: 0; }
.num { text-align: right; }
.start { border-left: 1px solid var(--line); }
.win { background: var(--win); color: var(--win-ink); font-weight: 650; }
.none { color: var(--soft); }
.notes { padding: 0; margin-top: 0.8rem; list-style: none; color: var(--soft); font-size: 0.88rem; }
.notes li { margin-top: 0.15rem; overflow-wrap: anywhere; }
.figures { display: grid; gap: 1.1rem; }
.notes + .figures { margin-top: 1.4rem; }
.figures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); }
figure { background: var(--card); border-radius: 12px; padding: 1.1rem 1.2rem; min-width: 0; }
.pictures { display: grid; gap: 1.1rem; }
.pictures figure { overflow-x: auto; }
.pictures svg { min-width: 640px; }
figure svg { display: block; width: 100%; height: auto; color: var(--ink); }
figcaption { color: var(--soft); font-size: 0.86rem; margin-top: 0.6rem; line-height: 1.45; }
.claims th, .claims td { white-space: normal; vertical-align: top; }
.claims td { min-width: 7rem; }
.claims tbody th { width: 55%; min-width: 14rem; }
.claims tbody th small { font-weight: 400; color: var(--soft); margin-left: 0.4em; }
.claims tbody th span { display: block; font-weight: 400; margin-top: 0.15rem; }
.scroll + details { margin-top: 1rem; }
details { border-top: 1px solid var(--line); }
details:last-of-type { border-bottom: 1px solid var(--line); }
section > details:first-of-type { margin-top: 1rem; }
summary { padding: 0.65rem 0.2rem; cursor: pointer; overflow-wrap: anywhere; }
summary .aside { float: right; color: var(--soft); font-variant-numeric: tabular-nums; margin-left: 1rem; }
.open { color: var(--warn); font-weight: 600; font-size: 0.88rem; }
details > .scroll { margin-bottom: 1rem; }
details h4 { margin: 0.6rem 0 0.3rem; }
.pairs { columns: 300px; column-gap: 2.2rem; font-size: 0.88rem; padding-bottom: 0.8rem; }
.pairs div {
  display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid;
  border-bottom: 1px solid var(--line); padding: 0.22rem 0;
}
.pairs dt { color: var(--soft); }
.pairs dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.prose { margin-top: 0.8rem; max-width: 46rem; }
.prose { display: grid; grid-template-columns: 6.5rem 1fr; row-gap: 0.55rem; }
.prose dt { font-weight: 600; }
.prose dd { margin: 0; }
@media (max-width: 600px) {
  main { padding: 1.5rem 1rem 3rem; }
  h2 { margin-top: 2.4rem; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 0.6rem; }
  .tiles li { padding: 0.75rem 0.85rem; }
  .tiles b { font-size: 1.4rem; }
  figure { padding: 0.9rem 0.7rem; }
  th, td { padding: 0.45rem 0.55rem; }
  tbody th { min-width: 7rem; max-width: 42vw; white-space: normal; overflow-wrap: break-word; }
  .prose { grid-template-columns: 1fr; row-gap: 0.1rem; }
  .prose dd { margin-bottom: 0.6rem; }
}
@page { margin: 14mm; }
@media print {
  :root {
    --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb; --grid: #ddd;
    --accent: #0b4a7d; --win: #e8f3ee; --win-ink: #063; --warn: #7a3b00;
    font-size: 9.5pt;
  }
  body { font-size: 1rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 22pt; }
  h2 { font-size: 15pt; margin-top: 1.4rem; }
  h3 { margin-top: 1.2rem; }
  h2, h3, h4 { break-after: avoid; }
  figure, .tiles li, tr, .notes, .scroll { break-inside: avoid; }
  figure, .tiles li { border: 1px solid var(--line); }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .tiles b { font-size: 14pt; }
  .figures { grid-template-columns: 1fr 1fr; gap: 4mm; }
  figure { padding: 3mm; }
  .scroll { overflow: visible; }
  table { font-size: 7.2pt; }
  th, td { padding: 1.2mm 1.1mm; white-space: normal; }
  thead th { font-size: 7pt; }
  tbody th { position: static; }
}
"""
