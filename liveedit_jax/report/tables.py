"""The table of a comparison in the paper's layout: LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from liveedit_jax.evaluation.metrics import COLUMNS, head
from liveedit_jax.report.compare import COSTS, Row, display_name
from liveedit_jax.report.metric_sets import PAPER, MetricSet
from liveedit_jax.report.seeds import MeanStd

HEADS = tuple(map(head, COLUMNS))
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def format_number(figure: MeanStd) -> str:
    """Format a figure with two decimals, and with its deviation where there is one."""
    if figure.mean is None:
        return "–"
    return f"{figure.mean:.2f}" + ("" if figure.std is None else f" ± {figure.std:.2f}")


def group_blocks(rows: Sequence[Row]) -> list[list[Row]]:
    """Group neighbouring rows of the same backbone, dataset and number of edits."""
    return [
        list(block)
        for _, block in groupby(rows, lambda row: (row.backbone, row.dataset, row.edits))
    ]


def best_values(block: Sequence[Row], metrics: MetricSet = PAPER) -> dict[str, float]:
    """Return the best value of each column, rounded as printed; empty for a single row."""
    if len(block) < 2:
        return {}
    found = {}
    for name in metrics.names:
        means = [metrics.figure(row, name).mean for row in block]
        known = [round(mean, 2) for mean in means if mean is not None]
        if known:
            found[name] = max(known)
    return found


def is_best(figure: MeanStd, best: float | None) -> bool:
    """Return whether a figure is the best of its block and column, as printed."""
    return figure.mean is not None and best is not None and round(figure.mean, 2) == best


def format_cost(row: Row, name: str) -> str:
    """Format one of COSTS, in the unit of its column."""
    mean = row.costs[name].mean
    if mean is None:
        return "–"
    mean = mean / row.edits / 1e3 if name == "state_bytes" else mean
    return f"{mean:,.1f}" if mean < 100 else f"{mean:,.0f}"


def _escape_markdown(name: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", display_name(name)).replace("\n", " ")


def _align(lines: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Return a Markdown table of lines (the head first), aligned to be read as plain text, too."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def joined(line: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([joined(lines[0]), joined(rule), *map(joined, lines[1:])]) + "\n"


def costs_markdown(rows: Sequence[Row]) -> str:
    """Return the table of costs in Markdown, for rows that have any; empty where none has."""
    known = [row for row in rows if any(row.costs[name].mean is not None for name in COSTS)]
    if not known:
        return ""
    lines = [["Backbone", "Dataset", "Edits", "Editor", *COSTS.values()]]
    for row in known:
        names = [_escape_markdown(name) for name in (row.backbone, row.dataset, row.editor)]
        lines.append(
            [*names[:2], f"{row.edits:,}", names[2], *(format_cost(row, n) for n in COSTS)]
        )
    return "\n" + _align(lines, (0, 1, 3))


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of metrics in Markdown."""
    lines = [["Backbone", "Dataset", "Edits", "Editor", *HEADS]]
    for block in group_blocks(rows):
        most = best_values(block)
        for row in block:
            cells = [
                f"**{format_number(row.values[name])}**"
                if is_best(row.values[name], most.get(name))
                else format_number(row.values[name])
                for name in COLUMNS
            ]
            names = [_escape_markdown(name) for name in (row.backbone, row.dataset, row.editor)]
            lines.append([*names[:2], f"{row.edits:,}", names[2], *cells])
    return _align(lines, (0, 1, 3))


def escape_latex(text: str) -> str:
    """Escape the special characters of LaTeX."""
    return "".join(_LATEX.get(c, c) for c in text)


def latex(rows: Sequence[Row]) -> str:
    """Return the table of metrics in LaTeX; it needs only the package booktabs."""

    def cell(figure: MeanStd, bold: bool) -> str:
        if figure.mean is None:
            return "--"
        mean = rf"\textbf{{{figure.mean:.2f}}}" if bold else f"{figure.mean:.2f}"
        return mean + ("" if figure.std is None else rf"\,{{\scriptsize $\pm$\,{figure.std:.2f}}}")

    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{llrl" + "r" * len(HEADS) + "}",
        r"\toprule",
        " & ".join(("Backbone", "Dataset", "Edits", "Editor", *HEADS)) + r" \\",
    ]
    shown: tuple[str, str] | None = None
    for block in group_blocks(rows):
        first, most = block[0], best_values(block)
        place = (first.backbone, first.dataset)
        lines.append(rf"\cmidrule(l){{3-{4 + len(HEADS)}}}" if place == shown else r"\midrule")
        for i, row in enumerate(block):
            names = [escape_latex(display_name(name)) if place != shown else "" for name in place]
            names += ["" if i else f"{row.edits:,}".replace(",", "{,}")]
            names += [escape_latex(display_name(row.editor))]
            cells = [
                cell(row.values[name], is_best(row.values[name], most.get(name)))
                for name in COLUMNS
            ]
            lines.append(" & ".join(names + cells) + r" \\")
            shown = place
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
