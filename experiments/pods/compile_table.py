"""Print the results of `compile_check` as the table of docs/results/2026-11-26-pods.md.

python -m experiments.pods.compile_table runs/compile_check
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

STEPS = ("train", "edit", "query", "generate")
TITLES = (
    "config", "topology, mesh", "step", "samples x tokens", "GB a chip", "TFLOP a chip",
    "products, instructions, collectives (s)", "utilisation, overlapped / nothing overlapped",
)  # fmt: skip


def cells(found: dict) -> list[str]:
    """Return the cells of one row."""
    mesh = " ".join(f"{axis} {n}" for axis, n in found["mesh"].items())
    samples = f"{found['samples']} x {found['tokens']:,}"
    row = [found["config"], f"{found['topology']}, {mesh}", found["step"], samples]
    if "a_chip_gb" not in found:
        return [*row, "does not fit", "", "", ""]
    row.append(f"{found['a_chip_gb']:.1f} of {found['chip_gb']}")
    row.append(f"{found['tflop']:.1f}" if "tflop" in found else "")
    if "utilisation" not in found:
        return [*row, "", ""]
    seconds = (found[name] for name in ("products_s", "instructions_s", "collectives_s"))
    shares = (found["utilisation"], found["utilisation_nothing_overlapped"])
    return [
        *row,
        ", ".join(f"{value:.3f}" for value in seconds),
        " / ".join(f"{100 * share:.0f} %" for share in shares),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/compile_check"))
    args = parser.parse_args()
    every = [json.loads(file.read_text()) for file in args.folder.glob("*.json")]
    every.sort(key=lambda d: (STEPS.index(d["step"]), d["chips"], d["topology"], d["config"]))
    for row in (TITLES, ["---"] * len(TITLES), *map(cells, every)):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
