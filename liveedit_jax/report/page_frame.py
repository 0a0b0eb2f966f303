"""The template of a run's `report.html`, for `str.format`."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LiveEdit: {title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #e3e7ee;
  --card: #fff; --page: #f5f7fa; --accent: #2f6bd8; --good: #157f5b; --bad: #b3324f; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8ecf4; --soft: #98a2b3;
  --line: #2c3444; --card: #1a202c; --page: #11151d; --accent: #7aa7ff; --good: #4cc596;
  --bad: #f0758f; }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }}
main {{ max-width: 1240px; margin: 0 auto; padding: 36px 20px 60px }}
h1 {{ margin: 0; font-size: 28px }} h2 {{ margin: 36px 0 12px; font-size: 19px }}
h3 {{ margin: 0 0 8px; font-size: 14px; color: var(--soft); font-weight: 600 }}
.summary, .note {{ color: var(--soft); margin: 4px 0 0 }}
.heads {{ display: flex; gap: 14px; flex-wrap: wrap; margin-top: 20px }}
.head b {{ font-size: 34px; color: var(--accent); display: block; line-height: 1.15 }}
.card, .head, article {{ background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 16px 18px; min-width: 0 }}
.charts {{ display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)) }}
.examples {{ display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)) }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
th, td {{ padding: 7px 9px; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top }}
thead th {{ color: var(--soft); font-size: 12px; font-weight: 600; vertical-align: bottom }}
tbody th {{ text-align: left; white-space: nowrap; font-weight: 600 }}
tbody tr:last-child > * {{ border-bottom: 0 }}
td small {{ display: block; color: var(--soft); font-size: 11.5px }}
.strong {{ font-weight: 700 }}
svg {{ width: 100%; height: auto; display: block }}
.grid {{ stroke: var(--line) }} .tick {{ fill: var(--soft); font-size: 11px }}
.end {{ text-anchor: end }} .middle {{ text-anchor: middle }}
.legend {{ display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 12px; color: var(--soft) }}
.legend i {{ display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 5px }}
.legend .key {{ display: inline-block; width: 34px; height: 12px; margin-right: 5px;
  vertical-align: -1px }}
article header {{ display: flex; gap: 12px; align-items: flex-start; margin-bottom: 8px }}
article p {{ margin: 2px 0 }} .target {{ color: var(--accent); font-weight: 600 }}
figure {{ margin: 0; text-align: center }} figcaption {{ font-size: 11px; color: var(--soft) }}
figure img {{ width: 72px; height: 72px; border-radius: 8px; background: #fff;
  border: 1px solid var(--line) }}
.answers th, .answers td {{ text-align: left; font-size: 13px; padding: 5px 6px;
  overflow-wrap: anywhere }}
.answers td:first-child {{ width: 38% }}
.good {{ color: var(--good) }} .bad {{ color: var(--bad) }}
.fired {{ font-size: 12px; color: var(--soft) }}
</style></head><body><main>
<h1>A vision-language model after {title}</h1>
<p class="summary">{summary}</p>
<div class="heads">
<div class="head"><b>{headline}%</b>{headline_note}</div>
<div class="head"><b>{exact}%</b>{exact_note}</div>
</div>
<h2>Figures</h2>
<div class="card wide">{table}
<p class="note">Percentages: teacher-forced token accuracy, and under it, small, exact match of free
generation. Locality compares with the model before editing. Text locality is 100 by construction:
a question without a picture hits no expert.</p></div>
<h2>Against the number of edits</h2>
<div class="charts">{charts}
<section class="card"><h3>{hits_title}</h3>{hits}</section></div>
<h2>Edits, before and after</h2>
<p class="note">Free generation. After an edit, green means: the target (or, for questions that are
not about an edit, what the model said before).</p><br>
<div class="examples">{examples}</div>
</main></body></html>
"""
