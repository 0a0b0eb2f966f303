"""The page of a comparison: whole, small, and shown by a browser without sideways scrolling."""

import contextlib
import html
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from liveedit_jax.cli import main
from liveedit_jax.evaluation.metrics import ORDER
from liveedit_jax.evaluation.probes import Case, Probe
from liveedit_jax.report import gallery
from liveedit_jax.report.compare import load_run
from liveedit_jax.report.gallery import pick_failures
from liveedit_jax.report.runs import report_runs
from tests.report.made_runs import cases, write_lines, write_run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER = BROWSER or shutil.which("google-chrome")


def picture(shade):
    data = io.BytesIO()
    Image.fromarray(np.full((60, 60, 3), shade, np.uint8)).save(data, format="PNG")
    return data.getvalue()


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """A stream that agrees with the made-up runs, but for case 3."""

    def stream(split, seed, n, side):
        return [
            Case(
                "changed" if c == 3 else f"e{c}",
                "colour",
                tuple(Probe(p, f"{p} {c}?", "red", picture(i)) for i, p in enumerate(ORDER)),
            )
            for c in range(n)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "stream_cases", stream)
        yield


def test_pictures_are_made_again_where_the_stream_is_the_same(tmp_path):
    wrong = lambda case, probe: probe == "image_locality"  # noqa: E731
    run = load_run(write_run(tmp_path / "a", wrong=wrong, dataset=None))
    found = {f.line["case"]: [c for c, _ in f.pictures] for f in pick_failures([run])}
    assert found.pop(3) == [] and set(map(tuple, found.values())) == {("edited", "asked about")}
    run = load_run(write_run(tmp_path / "b", wrong=wrong, dataset="vlkeb"))
    assert not any(f.pictures for f in pick_failures([run]))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The files of a comparison of three runs of 1,000 cases and one other."""
    tmp_path = tmp_path_factory.mktemp("runs")
    wrong = lambda case, probe: case % 3 == 0  # noqa: E731
    folders = [
        write_run(tmp_path / f"s{s}", s, 90.0 + s, 1000, wrong, dataset=None) for s in range(3)
    ]
    folders.append(write_run(tmp_path / "x", 0, 70, 4, wrong, backbone="a_very_long & <name>"))
    out = tmp_path / "out"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["report", *map(str, folders), "--out", str(out)]) == 0
    (out / "said").write_text(said.getvalue())
    return out


def test_results_without_their_lines_still_make_a_table(tmp_path):
    folder = write_run(tmp_path / "a")
    for name in ("cases.jsonl", "routes.jsonl"):
        (folder / name).unlink()
    report_runs([folder], tmp_path / "out")
    assert "Wrong answers" not in (tmp_path / "out" / "report.html").read_text()


def test_margins_are_drawn_where_the_lines_hold_them(tmp_path):
    folder = write_run(tmp_path / "a")
    report_runs([folder], tmp_path / "out")
    assert "Margin" not in (tmp_path / "out" / "report.html").read_text()
    write_lines(folder / "cases.jsonl", cases(10, 4, lambda *_: False, {"margin": -0.25}))
    report_runs([folder], tmp_path / "out")
    assert "Margin" in (tmp_path / "out" / "report.html").read_text()


def test_an_editor_without_routes_is_compared_in_figures_and_costs_alone(tmp_path):
    ours = write_run(tmp_path / "ours")
    other = write_run(tmp_path / "other", editor="grace", method={"settings": {}})
    results = json.loads((other / "results.json").read_text())
    results["marks"][-1] |= {"edit_ms": 5.0, "query_ms": 7.0, "state_bytes": 40_000}
    (other / "results.json").write_text(json.dumps(results))
    report_runs([other], tmp_path / "alone")
    text = (tmp_path / "alone" / "report.html").read_text()
    assert "Routing" not in text and "<td>5.0</td><td>7.0</td><td>4.0</td>" in text
    report_runs([ours, other], tmp_path / "both")
    numbers = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert list(numbers["routing"]) == ["tiny · E-VQA · LiveEdit"]
    assert "GRACE" in (tmp_path / "both" / "report.html").read_text()


def test_the_command_writes_all_files_and_prints_the_table(report):
    said = (report / "said").read_text()
    assert said.startswith((report / "table.md").read_text())
    for name in ("report.html", "table.tex", "table.md", "comparison.json", "comparison.png"):
        assert str(report / name) in said and (report / name).is_file()
    numbers = json.loads((report / "comparison.json").read_text())
    assert len(numbers["rows"]) == 4 and len(numbers["setups"]) == 2
    assert numbers["routing"]["tiny · MojiEdit · LiveEdit"]["false_hits"]["look_alike"]["10"] == {
        "mean": 50.0,
        "std": 0.0,
    }


def test_the_page_is_small_and_loads_nothing(report):
    text = (report / "report.html").read_text()
    assert len(text.encode()) < 5_000_000
    assert not re.search(r"""(src|href|url\(|@import)\s*=?\s*["'(]?\s*(https?:)?//""", text)
    assert "<script" not in text and "<link" not in text
    assert all(found.startswith("data:image/png") for found in re.findall(r'src="([^"]*)', text))
    assert 'src="data:image/png' in text and "<b>bad</b>" not in text and "<name>" not in text
    for title in (
        *("Token accuracy", "Exact match of free generation"),
        *("Hard locality, token accuracy", "Portability, token accuracy"),
    ):
        assert text.count(f">{title}</h3>") == 2  # a table and charts
    assert text.count("<article") == 24 and "± 1.00" in text.replace("<small>", "")


FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="f" style="width:WIDTHpx;height:3000px;border:0" srcdoc="PAGE"></iframe><p id="o"></p>
<script>onload = () => {
  const frame = document.getElementById("f"), inside = frame.contentDocument;
  document.getElementById("o").textContent = "found " + inside.documentElement.scrollWidth + " "
    + frame.contentWindow.innerWidth + " " + inside.querySelectorAll("svg").length }</script>"""


def browse(folder, *words):
    """Return what headless Chromium prints."""
    words = (
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", *words),
    )
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=folder)
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_page_without_sideways_scrolling(report, tmp_path, width):
    page = html.escape((report / "report.html").read_text())
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", page))
    found = re.search(r"found (\d+) (\d+) (\d+)", browse(tmp_path, "--dump-dom", frame.as_uri()))
    wide, inner, charts_n = map(int, found.groups())
    assert inner == width and wide <= inner and charts_n >= 12
    shot = tmp_path / "shot.png"
    browse(tmp_path, f"--screenshot={shot}", "--window-size=1200,3000", frame.as_uri())
    assert shot.stat().st_size > 20_000
    with Image.open(shot) as seen:
        assert seen.size == (1200, 3000)
        assert len(np.unique(np.asarray(seen.convert("L"))[:, :width])) > 30
