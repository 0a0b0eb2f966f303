"""Give a trained editor routing of our own: keys that are directions, fitted in a minute.

    python -m experiments.fit_routing --config tiny --ship runs/tiny-directions
    python -m experiments.fit_routing --config tiny --questions vqa_train.json --ship DIR

Reads the model folder (`--model`, default: the preset's shipped one) and writes another one, DIR,
with the same backbone and generators. `--image-n 0` or `--text-n 0` keeps the paper's key.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from experiments.training.arguments import one_line_errors
from experiments.training.editor_arguments import open_world
from liveedit_jax.backbones import Backbone
from liveedit_jax.cli.arguments import whole_number
from liveedit_jax.data.editing import EditingData
from liveedit_jax.editor.routing import FEWEST_EDITS
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.model_io.model import load_model
from liveedit_jax.model_io.weights import load_weights, save_weights
from liveedit_jax.training.editor import picture_features
from liveedit_jax.training.start import Frozen, fit_directions


def main() -> None:
    with one_line_errors("fit_routing"):
        _main()


def _main() -> None:
    args = _parser().parse_args()
    model = load_model(args.model or args.config)
    if args.ship.exists():
        raise ValueError(f"{args.ship} is there already: give a new folder")
    chosen, backbone = model.config, Backbone(model.config.backbone)
    editor = replace(
        chosen.editor,
        image_direction_n=args.image_n or None,
        image_bands_n=args.bands,
        text_direction_n=args.text_n or None,
        joint_scale=args.joint_scale,
    )
    recipe = replace(chosen.editor_train, seed=args.seed)
    mixture = replace(chosen.edit_mixture, open_share=0.0)
    opened = open_world(args)
    data = EditingData(
        model.tokenizer, chosen.backbone, recipe, mixture, chosen.dataset.budget, opened
    )
    pictures = picture_features(backbone, model.backbone, data.pictures())
    frozen = Frozen(
        backbone=backbone,
        weights=model.backbone,
        cfg=editor,
        recipe=recipe,
        data=data,
        pictures=pictures,
    )
    params = fit_directions(frozen, model.editor)
    if "image" in params:
        low, growth = (float(params["image"][name]) for name in ("threshold", "growth"))
        print(
            f"image threshold: cosine {low:.3f} up to {FEWEST_EDITS} edits, {growth:.3f} more for "
            "e times as many"
        )
    _, before = load_weights(model.folder / "editor")
    made = before | {"editor": asdict(editor), "directions": asdict(recipe.directions)}
    made |= {"fitted_from": before["sha256"], "commit": git_commit()}
    made |= {} if opened is None else {"directions_questions": opened.provenance}
    made["dev"] = None
    args.ship.mkdir(parents=True)
    shutil.copytree(model.folder / "backbone", args.ship / "backbone")
    shutil.copyfile(model.folder / "tokenizer.json", args.ship / "tokenizer.json")
    digest = save_weights(args.ship / "editor", params, made)
    print(f"wrote {args.ship} sha256 {digest}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", help="a preset")
    parser.add_argument("--model", type=Path, help="model folder (default: the preset's)")
    parser.add_argument("--ship", type=Path, required=True, help="model folder to write")
    parser.add_argument("--image-n", type=whole_number, default=192, help="entries of a vision key")
    parser.add_argument(
        "--text-n", type=whole_number, default=127, help="entries of a prompt's direction"
    )
    parser.add_argument(
        "--bands", type=whole_number, default=5, help="bands of vision tokens a key describes apart"
    )
    parser.add_argument(
        "--joint-scale",
        type=float,
        default=40.0,
        help="weight of pictures in the softmax over hits",
    )
    parser.add_argument("--questions", type=Path, nargs="+", help="files of free questions")
    parser.add_argument("--stamps", type=Path, help="folder of Tux Paint's stamps")
    parser.add_argument("--seed", type=whole_number, default=0)
    return parser


if __name__ == "__main__":
    main()
