"""How the page looks: on a screen, in the dark, on a phone and on paper."""

from __future__ import annotations

__all__ = ["STYLE"]

# The first seven colours are those of Okabe and Ito, made darker or lighter until each has a contrast of 3 to its
# background (WCAG 2.2, 1.4.11); texts have 4.5 at least (1.4.3).
STYLE = """
:root { color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --text: #1b2028; --faint: #59616e; --line: #d8dce3; --grid: #e9ecf0;
  --shade: #00000038;
  --ok: #0b6b4a; --warn: #8a5300; --fail: #b3261e; --ok-back: #e2f4ec; --warn-back: #fdf0d9; --fail-back: #fde7e5;
  --c0: #0067a5; --c1: #c14a00; --c2: #007d5c; --c3: #a83f82; --c4: #8a6d00; --c5: #2a8bc4; --c6: #3d4450; }
@media screen and (prefers-color-scheme: dark) { :root {
  --page: #14171c; --card: #1c2027; --text: #e7eaef; --faint: #a2abb8; --line: #353c47; --grid: #2a303a;
  --shade: #000000b0;
  --ok: #5ad6a4; --warn: #f3b95f; --fail: #ff8a80; --ok-back: #12352a; --warn-back: #3a2c12; --fail-back: #421d1b;
  --c0: #56b4e9; --c1: #ff9a4d; --c2: #2fd0a0; --c3: #e39ac8; --c4: #f0d84a; --c5: #6f9dff; --c6: #c4cad3; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; background: var(--page); color: var(--text); }
main, header, footer { max-width: 84rem; margin: 0 auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.25rem; line-height: 1.35; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
h4 { font-size: .95rem; } .chart-title { font-size: .92rem; margin: 0 0 .2rem; font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: .6rem;
  margin: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .5rem .8rem; }
dt { color: var(--faint); font-size: .8rem; } dd { margin: 0; font-variant-numeric: tabular-nums; }
.tables:empty { display: none; }
p { margin: .3rem 0; } .faint, footer { color: var(--faint); font-size: .87rem; }
.status { margin-top: 1rem; padding: .8rem 1rem; border-radius: .6rem; border-left: .4rem solid; }
.healthy, .ok { color: var(--ok); } .look, .warn { color: var(--warn); } .stopped, .fail { color: var(--fail); }
.none { color: var(--faint); } .until { font-size: .9rem; color: var(--text); }
.status.healthy { background: var(--ok-back); } .status.look { background: var(--warn-back); }
.status.stopped { background: var(--fail-back); }
.reasons { margin: .6rem 0; padding-left: 1.2rem; } .reasons li { margin: .35rem 0; }
.why { color: var(--faint); display: block; font-size: .9rem; }
.badge { font-size: .75rem; font-weight: 600; padding: .1rem .5rem; border: 1px solid; border-radius: 1rem;
  vertical-align: .1rem; margin-left: .4rem; }
progress { width: 100%; height: .6rem; margin: .7rem 0 .2rem; accent-color: var(--c0); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .6rem 0 0; padding: 0;
  font-size: .87rem; }
a { color: var(--c0); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21.5rem), 1fr)); gap: .8rem; }
.card, .tables > div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem .8rem; min-width: 0; }
.tables { display: flex; flex-wrap: wrap; align-items: flex-start; gap: .8rem; margin: .6rem 0; }
.tables > div { overflow-x: auto; max-width: 100%;
  background: linear-gradient(to right, var(--card) 40%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--card) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll, var(--card); }
table { border-collapse: collapse; font-size: .87rem; }
th, td { text-align: left; padding: .22rem .7rem .22rem 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
th { color: var(--faint); font-weight: 600; } tr:last-child td, tr:last-child th { border-bottom: 0; }
td.nowrap { white-space: nowrap; }
svg.chart { width: 100%; height: auto; display: block; }
svg text { font: 10.5px system-ui, sans-serif; fill: var(--text); } svg .label { fill: var(--faint); }
.grid { stroke: var(--grid); } .axis { stroke: var(--faint); }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .spread { opacity: .22; }
.band { fill: var(--faint); opacity: .2; } .strip, .hit { fill: transparent; } .strip:hover { fill: var(--faint);
  fill-opacity: .13; } .bad { font-weight: 700; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); } .c6 { stroke: var(--c6); }
svg .f0 { fill: var(--c0); } svg .f1 { fill: var(--c1); } svg .f2 { fill: var(--c2); } svg .f3 { fill: var(--c3); }
svg .f4 { fill: var(--c4); } svg .f5 { fill: var(--c5); } svg .f6 { fill: var(--c6); }
.mark .rule { stroke-width: 1; stroke: var(--faint); stroke-dasharray: 2 3; } svg .mark text { font-size: 9px;
  fill: var(--faint); }
.anomaly .rule { stroke: var(--fail); stroke-dasharray: none; } svg .anomaly text { fill: var(--fail); }
.rolled-back .rule { stroke: var(--warn); stroke-dasharray: 5 2; } svg .rolled-back text { fill: var(--warn); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .3rem 0 0; padding: 0;
  font-size: .8rem; color: var(--faint); } .legend b { color: var(--text); font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: 22px; height: 10px; margin-right: .3rem; } .swatch line { stroke-width: 2.5; }
.band-swatch { background: var(--faint); opacity: .3; }
.key { margin: .4rem 0; font-size: .85rem; color: var(--faint); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: .8rem;
  align-items: start; margin: .8rem 0; }
figure { margin: 0; } figure img { max-width: 100%; height: auto; display: block; border-radius: .3rem; }
figcaption { font-size: .8rem; color: var(--faint); margin-top: .3rem; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0; }
footer { margin-top: 2.5rem; padding-bottom: 2rem; }
@media (max-width: 600px) { .tables > div { width: 100%; } td { overflow-wrap: anywhere; }
  .titled, .titled tbody { display: block; } .titled tr { display: flex; flex-wrap: wrap; gap: 0 1rem;
    padding: .35rem 0; border-bottom: 1px solid var(--line); } .titled tr:last-child { border-bottom: 0; }
  .titled .titles { display: none; } .titled td { border: 0; padding: .05rem 0; min-width: 0; }
  .titled td.nowrap { white-space: normal; } .titled td:empty { display: none; }
  .titled td:first-child { flex-basis: 100%; font-weight: 600; } .titled td.long { flex-basis: 100%; }
  .titled td[data-label]::before { content: attr(data-label) ": "; color: var(--faint); font-weight: 400; } }
@media print { :root { --page: #fff; --card: #fff; --text: #000; --faint: #444; }
  body { font-size: 9.5pt; } nav, .strip { display: none; } .card, figure, tr { break-inside: avoid; }
  .tables > div { overflow: visible; background: none; } td.nowrap { white-space: normal; }
  .charts { grid-template-columns: 1fr 1fr; } h2, h3 { break-after: avoid; } .status { border: 1px solid; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""
