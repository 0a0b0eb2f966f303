"""The table in LaTeX and Markdown: layout, the best in bold, names that need escaping."""

import pytest

from liveedit_jax.evaluation.metrics import COLUMNS
from liveedit_jax.report.compare import COSTS, Row
from liveedit_jax.report.seeds import MeanStd
from liveedit_jax.report.tables import (
    best_values,
    costs_markdown,
    escape_latex,
    group_blocks,
    latex,
    markdown,
)


def row(editor, values, edits=1, backbone="tiny", dataset="mojiedit", std=None, costs=()):
    figures = {
        name: MeanStd(value, None if value is None else std)
        for name, value in zip(COLUMNS, values, strict=True)
    }
    known = dict(costs)
    spent = {name: MeanStd(known.get(name)) for name in COSTS}
    return Row(backbone, dataset, editor, edits, 1, figures, {}, spent)


ROWS = [
    row("liveedit", (90, 80, 70, 100, 99.994, 88, 85)),
    row("ft_l", (95, 60, 70.001, 20, 99.99, None, 81.25)),
    row("liveedit", (50,) * 7, edits=1000, std=1.25),
]


def test_the_best_of_a_block_is_bold_ties_as_printed_included():
    first, second = group_blocks(ROWS)
    assert best_values(first) == dict(zip(COLUMNS, (95, 80, 70, 100, 99.99, 88, 85), strict=True))
    assert best_values(second) == {}  # nothing to compare with
    lines = markdown(ROWS).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == [
        *("tiny", "MojiEdit", "1", "LiveEdit", "90.00", "**80.00**", "**70.00**", "**100.00**"),
        *("**99.99**", "**88.00**", "**85.00**"),
    ]
    assert cells[1][3:] == [
        *("FT-L", "**95.00**", "60.00", "**70.00**", "20.00", "**99.99**", "–", "81.25"),
    ]
    assert cells[2][2:5] == ["1,000", "LiveEdit", "50.00 ± 1.25"]
    assert len({len(line) for line in lines}) == 1


def test_latex_has_the_papers_layout():
    lines = latex(ROWS).splitlines()
    assert lines[1] == r"\begin{tabular}{llrlrrrrrrr}" and lines[-1] == r"\end{tabular}"
    assert r"Rel. & T-Gen. & M-Gen. & T-Loc. & M-Loc. & Average & Of four \\" in lines[3]
    assert lines[5].startswith(r"tiny & MojiEdit & 1 & LiveEdit & 90.00 & \textbf{80.00} &")
    assert lines[6].startswith(r" &  &  & FT-L & \textbf{95.00} &")
    assert lines[6].endswith(r"& -- & 81.25 \\") and lines[7] == r"\cmidrule(l){3-11}"
    assert r"& 1{,}000 & LiveEdit & 50.00\,{\scriptsize $\pm$\,1.25} &" in lines[8]
    assert all(line.count(" & ") == 10 for line in lines if line.endswith(r"\\"))


def test_latex_escapes_names():
    assert escape_latex(r"a_b & 50% #1 {x} $y ~ ^ \z") == (
        r"a\_b \& 50\% \#1 \{x\} \$y \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    assert r"my\_model \& co & E-VQA & 1 & liveedit-2\_x" in latex(
        [row("liveedit-2_x", range(7), backbone="my_model & co", dataset="evqa")]
    )


@pytest.mark.parametrize("name", ["a|b", "a*b_c", "<x>"])
def test_markdown_escapes_names(name):
    line = markdown([row("liveedit", range(7), backbone=name)]).splitlines()[2]
    assert line.replace(r"\|", "").count("|") == 12 and "\\" in line


def test_costs_are_a_table_of_the_runs_that_know_them():
    assert costs_markdown(ROWS) == ""
    costs = {"edit_ms": 12.34, "query_ms": 1234.5, "state_bytes": 5_000_000}
    lines = costs_markdown([*ROWS, row("ft_l", range(7), edits=1000, costs=costs)]).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines[1:]}) == 1
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells == ["tiny", "MojiEdit", "1,000", "FT-L", "12.3", "1,234", "5.0"]
