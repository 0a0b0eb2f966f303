"""Edit photographs with free questions, all in one repository, and measure five shares.

    python -m experiments.studies.photographs FOLDER --model smol --out runs/photographs

FOLDER holds `cases.json`, a list of {"name", "question", "target", "rephrase", "others": [...]},
with NAME.jpg and NAME-view.jpg (docs/photographs.md). Three shares count answers that are the
target, word for word: to the edit's own question, to its rephrasing, and to its own question about
the other view. Two count answers that differ from the unedited model's: to other questions about an
edited photograph, and to the same question about the other photographs.

Writes OUT/results.json and OUT/report.html, a page with every picture, question and answer.
`experiments.studies.photograph_cases` makes such a folder from stamps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from experiments.studies.photograph_counts import (
    KINDS,
    LABELS,
    PhotographProbe,
    count_shares,
    judge_answer,
    list_probes,
)
from experiments.studies.photograph_folder import PhotographCase, read_cases
from experiments.studies.photograph_page import page
from liveedit_jax.cli.arguments import add_refine
from liveedit_jax.session import Answer, OpenModel, model_hashes, open_editor
from liveedit_jax.store.durable import replace_file


def main() -> int:
    args = _parser().parse_args()
    begin = time.time()
    try:
        cases = read_cases(args.folder)
        if args.others_n is not None and args.others_n < 0:
            raise ValueError(f"--others-n {args.others_n}: 0 or more")
        if args.tokens is not None and args.tokens < 1:
            raise ValueError(f"--tokens {args.tokens}: 1 or more")
        args.out.mkdir(parents=True, exist_ok=True)
        backbone, editor, _ = model_hashes(args.model)
        results = {
            "model": args.model,
            "backbone_sha256": backbone,
            "editor_sha256": editor,
            "photographs": len(cases),
            "others_n": args.others_n,
            "refine_n": args.refine,
            **study(cases, args),
            "seconds": round(time.time() - begin, 1),
        }
        replace_file(args.out / "results.json", _json(results))
        replace_file(args.out / "report.html", page(results, cases).encode())
    except (ValueError, OSError, KeyError, OverflowError) as error:
        said = error.args[0] if isinstance(error, KeyError) else error
        print(f"photographs: error: {said}", file=sys.stderr)
        return 2
    print(table(results))
    print(f"{results['seconds']:.0f} s; {args.out / 'report.html'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="cases.json with its pictures")
    parser.add_argument("--model", default="tiny", help="tiny, smol, or a model folder")
    parser.add_argument("--out", type=Path, default=Path("runs/photographs"))
    parser.add_argument(
        "--others-n", type=int, help="other photographs that each question is asked about (all)"
    )
    parser.add_argument("--tokens", type=int, help="most tokens of an answer (as `liveedit ask`)")
    add_refine(parser)
    parser.add_argument(
        "--repo", type=Path, help="repository to keep; edits that it holds already stay live"
    )
    return parser


def _json(results: dict) -> bytes:
    return (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode()


def study(cases: Sequence[PhotographCase], args: argparse.Namespace) -> dict:
    """Make all edits, ask everything, and count.

    Returns:
        "tokens", the most tokens of an answer; "shares"; and "cases", each with its questions and
        answers.

    Raises:
        ValueError: a text that does not fit the model; the error names the case.
        OSError, OverflowError: the repository cannot be written.
    """
    probes = list_probes(cases, args.others_n)
    with tempfile.TemporaryDirectory() as folder:
        repo = args.repo or Path(folder) / "repository"
        with open_editor(args.model, repo, write=True, refine_n=args.refine) as editor:
            _check(editor.model, cases)
            requests = [(case.picture, case.question, case.target) for case in cases]
            with tqdm(total=len(cases), desc="edits", mininterval=5) as bar:
                results = editor.edit_many(requests, check=False, tick=bar.update)
            ids = [result.id for result in results]
            questions = [(_picture(cases, probe), probe.prompt) for probe in probes]
            tokens_n = args.tokens or _tokens_n(editor.model, cases)
            answers = editor.ask_many(questions, tokens_n)
            answers = list(tqdm(answers, "questions", len(probes), mininterval=5))
    case_of = {edit_id: i for i, edit_id in enumerate(ids)}
    rows = [_row(cases, probe, a, case_of) for probe, a in zip(probes, answers, strict=True)]
    asked = [[row for row in rows if row["case"] == i] for i in range(len(cases))]
    return {
        "tokens": tokens_n,
        "shares": count_shares(rows),
        "cases": [
            {
                "name": case.name,
                "question": case.question,
                "target": case.target,
                "rephrase": case.rephrase,
                "asked": asked[i],
            }
            for i, case in enumerate(cases)
        ],
    }


def _check(model: OpenModel, cases: Sequence[PhotographCase]) -> None:
    """Refuse texts that do not fit the model before anything is stored."""
    for case in cases:
        for prompt in (case.question, case.rephrase, *case.others):
            try:
                model.check(prompt, case.target)
            except ValueError as error:
                raise ValueError(f"case {case.name!r}, {prompt!r}: {error}") from error


def _tokens_n(model: OpenModel, cases: Sequence[PhotographCase]) -> int:
    """Return the most tokens of an answer, as in evaluation: twice the longest target's plus 8."""
    encode = model.tokenizer.encode
    return 2 * max(len(encode(" " + case.target.strip())) for case in cases) + 8


def _picture(cases: Sequence[PhotographCase], probe: PhotographProbe) -> bytes:
    case = cases[probe.shown]
    return case.view if probe.kind == "view" else case.picture


def _row(
    cases: Sequence[PhotographCase], probe: PhotographProbe, answer: Answer, case_of: dict[int, int]
) -> dict:
    """Return a judged probe and the edits that fired as plain values."""
    fired = [
        {
            "case": cases[case_of[fired.edit.id]].name if fired.edit.id in case_of else None,
            "edit": fired.edit.id,
            "weight": round(fired.weight, 5),
        }
        for fired in answer.fired
    ]
    hits = {"hit_n": answer.hit_n, "kept": round(answer.kept, 5), "fired": fired}
    return judge_answer(cases, probe, answer.before, answer.after) | hits


def table(results: dict) -> str:
    """Format the five shares, one line each, and what changed answers became."""
    lines = [f"{results['model']}, {results['photographs']} photographs, an edit each:"]
    for kind in KINDS:
        count = results["shares"][kind]
        share = "   –" if count["share"] is None else f"{count['share']:5.1f}"
        line = f"  {LABELS[kind]:<62}{share} %  {count['n']} of {count['of']}"
        if "became" in count:
            became = count["became"]
            line += "  (" + ", ".join(f"{n} {words}" for words, n in became.items()) + ")"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
