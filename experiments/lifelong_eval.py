"""Lifelong evaluation: all metrics after 1, 10, 100, ... edits of one stream.

    python -m experiments.lifelong_eval --config tiny --marks 1,10,100,1000 --seed 0 --out DIR
    python -m experiments.lifelong_eval --config llava-1.5-7b --model MODEL --dataset evqa \\
        --manual-dir FOLDER --out DIR

Writes DIR/results.json, cases.jsonl, routes.jsonl, metrics.png and report.html. An interrupted run
is resumed by the same command. Tune on `--split dev`; report `--split eval`.

A public benchmark is read from its authors' files in FOLDER, in their order; `--seed S` shuffles it
as the released evaluation does, whose result files are in DIR/released. `--seeds 0,1,2` makes one
run for each seed, in DIR/seed_S, and DIR/summary.json with means and standard deviations.
"""

from __future__ import annotations

import time

BEGIN = time.time()

import sys  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

from experiments.training.arguments import add_config  # noqa: E402
from liveedit_jax.cli.arguments import Parser, natural, positive, whole_number  # noqa: E402
from liveedit_jax.evaluation.cases import BenchmarkFiles  # noqa: E402
from liveedit_jax.evaluation.run import (  # noqa: E402
    METHODS,
    RunSpec,
    format_table,
    parse_marks,
    parse_seeds,
    run,
)
from liveedit_jax.presets import BACKBONES, DATASETS, EDITORS  # noqa: E402
from liveedit_jax.report.run_page import draw_run  # noqa: E402
from liveedit_jax.report.seeds import write_summary  # noqa: E402


def main() -> int:
    parser = Parser(description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument("--dataset", choices=sorted(DATASETS))
    parser.add_argument("--backbone", choices=sorted(BACKBONES))
    parser.add_argument("--editor", choices=[*METHODS, *EDITORS], help="or LiveEdit's size")
    parser.add_argument("--model", help="model folder (default: the preset's shipped one)")
    parser.add_argument("--split", default="eval", help="eval, dev, ...; of VLKEB also onehop, ...")
    parser.add_argument("--seed", type=whole_number, help="0, or a public benchmark's own order")
    parser.add_argument("--seeds", help="several, as 0,1,2")
    parser.add_argument("--manual-dir", help="a public benchmark's own files")
    parser.add_argument("--data-dir", help="where its prepared rows are kept (the user's cache)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave rows out whose pictures are missing"
    )
    parser.add_argument("--noto", help="font file of the third drawings (default: Debian's)")
    parser.add_argument("--marks", default="1,10,100,1000", help="numbers of edits")
    parser.add_argument(
        "--cases", type=positive, help="cases that smaller marks count (the preset's)"
    )
    parser.add_argument(
        "--refine", type=natural, metavar="N",
        help="most steps of descent on an edit of LiveEdit that does not take (the config's)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.seeds and args.seed is not None:
        parser.error("--seed or --seeds")
    try:
        files = None
        if args.manual_dir is not None:
            files = BenchmarkFiles(args.manual_dir, args.data_dir, args.allow_missing)
        spec = RunSpec(
            config=args.config,
            dataset=args.dataset,
            backbone=args.backbone,
            editor=args.editor,
            model=args.model,
            split=args.split,
            seed=args.seed if args.seed is not None or files else 0,
            marks=parse_marks(args.marks),
            cases_n=args.cases,
            files=files,
            noto=args.noto,
            refine_n=args.refine,
        )
        runs = [(spec, args.out)]
        if args.seeds:
            seeds = parse_seeds(args.seeds)
            runs = [(replace(spec, seed=seed), args.out / f"seed_{seed}") for seed in seeds]
        every = [_run(one, out) for one, out in runs]
        if args.seeds:
            write_summary(every, args.out / "summary.json")
    except (ValueError, OSError, KeyError, ImportError) as error:
        said = error.args[0] if isinstance(error, KeyError) else error
        print(f"lifelong_eval: error: {said}", file=sys.stderr)
        return 2
    return 0


def _run(spec: RunSpec, out: Path) -> dict:
    results = run(spec, out, BEGIN, draw=draw_run)
    print(format_table(results))
    print(
        f"{results['seconds']:.0f} s, peak {results['peak_rss_gb']:.2f} GB, "
        f"{results['compile_n']} compilations; {out / 'report.html'}"
    )
    return results


if __name__ == "__main__":
    sys.exit(main())
