/// The style sheet. Colours are named once for light and once for dark; plots use the names.
pub const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fbfaf7; --card: #ffffff; --ink: #1d2430; --faint: #6a7280; --line: #e3e0d8;
  --a: #1f6f8b; --b: #c8553d; --c: #8a9a3b; --d: #7a5c99; --e: #d9a441; --f: #4d7ea8; --g: #9b8579; --good: #2e7d4f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --card: #1a2029; --ink: #e4e7ec; --faint: #97a1b0;
  --line: #2c3542; --a: #5fb3cf; --b: #ec8a72; --c: #b9c96a; --d: #b49ad2; --e: #ecc272; --f: #86b4dc; --g: #c0aca1; --good: #6cc492; --bad: #f28b82; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
p { margin: .3rem 0; }
.faint { color: var(--faint); }
.good { color: var(--good); } .bad { color: var(--bad); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem; margin-top: 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; }
.tiles div b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 500; } td.text, th.text { text-align: left; white-space: normal; }
.wide { overflow-x: auto; }
ol { margin: 0; padding-left: 0; list-style: none; }
ol li { display: grid; grid-template-columns: 6rem 1fr; gap: .8rem; padding: .15rem 0; }
ol time { color: var(--faint); text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); stroke-width: 1; fill: none; }
svg .ink { fill: var(--ink); }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; color: var(--faint); margin-top: .4rem; }
.key i { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px; margin-right: .4rem; vertical-align: -1px; }
@media print { section { break-inside: avoid; } }
";

/// The names of the colours of a plot's parts, in order; they begin anew when there are more parts.
pub(super) const COLOURS: [&str; 7] = ["--a", "--b", "--c", "--d", "--e", "--f", "--g"];
