"""Lifelong evaluation: all metrics after 1, 10, 100, ... edits of one stream.

    python -m experiments.lifelong_eval --config tiny --marks 1,10,100,1000 --seed 0 --out DIR

Writes DIR/results.json, cases.jsonl, routes.jsonl, metrics.png and report.html. A killed run with
the same arguments goes on where it was. Tune on `--split dev`; report `--split eval`.
"""

from __future__ import annotations

import time

BEGIN = time.time()

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from liveedit_jax.evaluation.run import Choice, parse_marks, run, table  # noqa: E402
from liveedit_jax.presets import BACKBONES, DATASETS, EDITORS, PRESETS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", choices=sorted(PRESETS))
    parser.add_argument("--dataset", choices=sorted(DATASETS))
    parser.add_argument("--backbone", choices=sorted(BACKBONES))
    parser.add_argument("--editor", choices=sorted(EDITORS))
    parser.add_argument("--model", help="model folder (default: the preset's shipped one)")
    parser.add_argument("--split", default="eval", choices=("eval", "dev", "editor_train"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--marks", default="1,10,100,1000", help="numbers of edits")
    parser.add_argument("--cases", type=int, help="cases that marks below it count (the preset's)")
    parser.add_argument(
        "--finetune",
        type=int,
        help="most edits of the fine-tuning baseline, 0: none (the preset's)",
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        choice = Choice(
            config=args.config,
            dataset=args.dataset,
            backbone=args.backbone,
            editor=args.editor,
            model=args.model,
            split=args.split,
            seed=args.seed,
            marks=parse_marks(args.marks),
            cases_n=args.cases,
            finetune_n=args.finetune,
        )
        results = run(choice, args.out, BEGIN)
    except (ValueError, OSError, KeyError) as error:
        print(f"lifelong_eval: error: {error}", file=sys.stderr)
        return 2
    print(table(results))
    print(
        f"{results['seconds']:.0f} s, peak {results['peak_rss_gb']:.2f} GB, "
        f"{results['compile_n']} compilations; {args.out / 'report.html'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
