"""Measure what a base model knows before any edit.

    python -m experiments.studies.base_knowledge --model tiny [--entities-n 250] [--out FILE.json]

Prints teacher-forced token accuracy and exact match (all answer tokens and EOS) in percent for
single facts, questions of two facts, scenes, text-only questions and captions (see
`evaluation/knowledge.py`). `--model` is a preset's name or a model folder; only its backbone is
read. Takes about 3 minutes on one core for `tiny`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from liveedit_jax.backbones import Backbone
from liveedit_jax.evaluation.knowledge import measure_base
from liveedit_jax.model_io.model import load_backbone, model_folder, open_tokenizer, recipe_preset


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Format the figures as a table, one line each."""
    lines = [f"{'part':<28}{'of':<13}{'tokens':>7}{'exact':>7}{'questions':>11}"]
    for part, groups in found.items():
        for group, one in groups.items():
            shares = "".join(f"{100 * one[name]:7.1f}" for name in ("tokens", "exact"))
            lines.append(f"{part:<28}{group:<13}{shares}{one['questions']:11,}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="preset name or model folder")
    parser.add_argument("--entities-n", type=int, default=250, help="entities asked about; 0: all")
    parser.add_argument("--batch", type=int, default=64, help="rows a batch")
    parser.add_argument("--length", type=int, default=320, help="most tokens of a packed row")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    args = parser.parse_args()
    begin, folder = time.time(), model_folder(args.model)
    params, recipe = load_backbone(folder)
    cfg = recipe_preset(folder / "backbone", recipe).backbone
    tokenizer, _ = open_tokenizer(folder, cfg, recipe)
    entities_n = args.entities_n or None
    found = measure_base(Backbone(cfg), params, tokenizer, entities_n, args.batch, args.length)
    print(table(found))
    result = {
        "model": args.model,
        "sha256": recipe["sha256"],
        "entities_n": entities_n,
        "seconds": round(time.time() - begin, 1),
        "figures": found,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['seconds']} s")


if __name__ == "__main__":
    main()
