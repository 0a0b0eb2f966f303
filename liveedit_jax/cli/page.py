"""`liveedit list --html`: the live edits with their pictures, as one page that needs no other."""

from __future__ import annotations

from html import escape
from pathlib import Path

from liveedit_jax.cli.wording import picture_name
from liveedit_jax.report.run_page import inline_picture
from liveedit_jax.store import Edit, Store
from liveedit_jax.store.durable import replacing

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Edits in {folder}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #e3e7ee;
  --page: #f5f7fa; --accent: #2f6bd8 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8ecf4; --soft: #98a2b3;
  --line: #2c3444; --page: #11151d; --accent: #7aa7ff }} }}
body {{ margin: 0 auto; max-width: 960px; padding: 32px 20px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }}
h1 {{ margin: 0; font-size: 26px; overflow-wrap: anywhere }}
p, figcaption {{ color: var(--soft) }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ padding: 8px 10px; text-align: left; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere }}
td:first-child {{ color: var(--soft); font-variant-numeric: tabular-nums }}
td:last-child {{ color: var(--accent); font-weight: 600 }}
figure {{ margin: 0; width: 96px }} figcaption {{ font-size: 12px }}
img {{ max-width: 96px; max-height: 96px; border-radius: 6px; background: #fff }}
</style></head><body>
<h1>Edits in {folder}</h1>
<p>{live_n} live, of {edits_n} recorded.</p>
<table><thead><tr><th>id</th><th>picture</th><th>prompt</th><th>target</th></tr></thead><tbody>
"""


def write_page(store: Store, file: Path) -> None:
    """Write the page, or leave what is at `file` as it was.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    edits = store.history.live_edits()
    head = HEAD.format(
        folder=escape(str(store.path)), live_n=len(edits), edits_n=len(store.history.edits)
    )
    with replacing(file) as out:
        out.write(head.encode(errors="replace"))
        for edit in edits:
            out.write(_row(store, edit).encode())
        out.write(b"</tbody></table></body></html>\n")


def _row(store: Store, edit: Edit) -> str:
    name, request = picture_name(edit), edit.request
    try:
        shown = inline_picture(store.picture(request.image), name)
    except ValueError:  # damaged or gone; the request is there all the same
        shown = f"{escape(name)} (the picture is damaged or missing)"
    texts = f"<td>{escape(request.prompt)}</td><td>{escape(request.target)}</td>"
    return f"<tr><td>{edit.id}</td><td>{shown}</td>{texts}</tr>\n"
