"""Compare our modules with arrays computed by the released PyTorch code.

    python -m experiments.reference.check_golden --dir DIR

Loads every case under DIR and prints one line per item: its error is max|difference| / max|stored|.
Exits 1 where anything is above tolerance (1e-5 modules, routing, residual; 1e-4 whole-model states,
logits, loss terms, gradients; 1e-6 Adam), missing, mis-shaped, corrupt or not finite.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from experiments.reference.golden.case import GoldenCase, check_config
from experiments.reference.golden.editing import check_edit_and_infer
from experiments.reference.golden.forward import check_forward
from experiments.reference.golden.modules import check_modules, check_routing
from experiments.reference.golden.training import check_training

CHECKS = {
    "config": check_config,
    "modules": check_modules,
    "routing": check_routing,
    "llava_forward": check_forward,
    "edit_and_infer": check_edit_and_infer,
    "train_inputs": check_training,
}


WHOLE_ONLY = ("llava_forward", "edit_and_infer")  # they need the weights that a part leaves out


def check_case(folder: Path, parts: Sequence[str] = tuple(CHECKS)) -> int:
    """Check the named parts of one case; returns the number of failed items."""
    case = GoldenCase(folder)
    if case.is_part:
        parts = [name for name in parts if name not in WHOLE_ONLY]
    for name in parts:
        try:
            CHECKS[name](case)
        except (ValueError, KeyError, OSError, TypeError, IndexError, zipfile.BadZipFile) as error:
            case.fail(name, f"could not be checked: {error}")
    return case.failures_n


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="a folder of cases, or one case")
    parser.add_argument(
        "--parts", nargs="+", choices=sorted(CHECKS), default=list(CHECKS), help="default: all"
    )
    args = parser.parse_args(argv)
    folders = sorted(file.parent for file in args.dir.glob("**/config.json"))
    if not folders:
        print(f"no golden case (a folder with config.json) under {args.dir}", file=sys.stderr)
        return 1
    failures = {folder.name: check_case(folder, args.parts) for folder in folders}
    for name, n in failures.items():
        print(f"{name}: {'all items within tolerance' if n == 0 else f'{n} items FAILED'}")
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
