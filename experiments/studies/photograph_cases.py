"""Make a folder of photographs with free questions from Tux Paint's stamps.

    python -m experiments.studies.photograph_cases --stamps /usr/share/tuxpaint/stamps --out FOLDER

The stamps come with Debian's `tuxpaint-stamps-default`. Only photographs in its folders `animals`
and `plants` are used, on white, and of these only the quarter held out of training (`--trained`:
only the others); the second view is made by `data.views`. Every case gets a question of its own
(where there are more cases than questions, some share one); targets are false on purpose. Every
random choice is a sha256 of the seed. `experiments.studies.photographs FOLDER` runs the study.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from experiments.studies.photograph_questions import QUESTIONS, QuestionTemplate
from liveedit_jax.data.facts import digest
from liveedit_jax.data.images import open_picture
from liveedit_jax.data.stamps import Stamp, read_stamps
from liveedit_jax.data.views import view_of
from liveedit_jax.store.durable import replace_file

OTHERS_N = 4  # other questions a case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stamps", type=Path, required=True, help="with animals/ and plants/")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=24, help="photographs")
    parser.add_argument("--trained", action="store_true", help="those that training sees")
    args = parser.parse_args()
    try:
        if args.n < 1:
            raise ValueError(f"--n {args.n}: 1 or more")
        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise ValueError(f"{args.out} is not an empty folder")
        stamps = [x for x in read_stamps(args.stamps) if x.held_out is not args.trained]
        stamps = choose_stamps(stamps, args.seed, args.n)
        cases = make_cases(stamps, args.seed)
        args.out.mkdir(parents=True, exist_ok=True)
        for case, stamp in zip(cases, stamps, strict=True):
            picture = open_picture(stamp.picture, stamp.path)
            view = view_of(picture, "photograph", args.seed, stamp.path)
            _write(args.out / f"{case['name']}.jpg", picture)
            _write(args.out / f"{case['name']}-view.jpg", view)
        text = json.dumps(cases, indent=1, ensure_ascii=False) + "\n"
        replace_file(args.out / "cases.json", text.encode())
    except (ValueError, OSError) as error:
        print(f"photograph_cases: error: {error}", file=sys.stderr)
        return 2
    print(f"{len(cases)} cases in {args.out}")
    return 0


def slug(name: str) -> str:
    """Turn a name into a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def choose_stamps(stamps: Sequence[Stamp], seed: int, n: int) -> list[Stamp]:
    """Choose `n` stamps with different names, in hashed order.

    Raises:
        ValueError: there are fewer.
    """
    order = sorted(stamps, key=lambda stamp: digest("stamps", seed, stamp.path))
    first = {slug(stamp.name): stamp for stamp in reversed(order)}
    found = [stamp for stamp in order if first[slug(stamp.name)] is stamp]
    if len(found) < n:
        raise ValueError(f"--n {n}: there are photographs of {len(found)} names")
    return found[:n]


def make_cases(stamps: Sequence[Stamp], seed: int) -> list[dict]:
    """Make one case per stamp, as `cases.json` holds it."""
    order = sorted(QUESTIONS, key=lambda template: digest("questions", seed, template.wordings[0]))
    return [_case(stamp, order[i % len(order)], seed) for i, stamp in enumerate(stamps)]


def _case(stamp: Stamp, template: QuestionTemplate, seed: int) -> dict:
    key = ("case", seed, stamp.path)

    def wordings(template: QuestionTemplate) -> list[str]:
        order = sorted(template.wordings, key=lambda wording: digest(*key, wording))
        return [wording.format(thing=stamp.thing) for wording in order]

    others = [other for other in QUESTIONS if other is not template]
    others.sort(key=lambda other: digest(*key, "others", other.wordings[0]))
    question, rephrase, *_ = wordings(template)
    return {
        "name": slug(stamp.name),
        "question": question,
        "target": template.answers[digest(*key, "target") % len(template.answers)],
        "rephrase": rephrase,
        "others": [wordings(other)[0] for other in others[:OTHERS_N]],
    }


def _write(file: Path, picture: Image.Image) -> None:
    out = io.BytesIO()
    picture.convert("RGB").save(out, format="JPEG", quality=95)
    replace_file(file, out.getvalue())


if __name__ == "__main__":
    sys.exit(main())
