"""Train a baseline editor on MojiEdit's editor-train entities.

    python -m experiments.train_baseline --config tiny --editor mend --out runs/mend
    python -m experiments.train_baseline --config tiny --editor mend --out runs/mend \\
        --ship checkpoints/tiny/baselines/mend

Killed or stopped runs resume where they were.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.arguments import training_parser
from liveedit_jax.backbones import Backbone
from liveedit_jax.baselines import editor as compiled
from liveedit_jax.baselines.editor import at_layer
from liveedit_jax.baselines.table import BASELINES
from liveedit_jax.baselines.trained import LessonData, init_state, train_step
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.tokenizer import load_tokenizer
from liveedit_jax.presets import preset
from liveedit_jax.training.checkpoint import load_backbone, model_folder
from liveedit_jax.training.loop import train
from liveedit_jax.training.weights import save_weights

TRAINED = sorted(name for name, editor in BASELINES.items() if hasattr(editor, "recipe"))


def main() -> None:
    parser = training_parser(__doc__, "runs/baseline", "the editor")
    parser.add_argument("--editor", choices=TRAINED, required=True)
    parser.add_argument("--model", type=Path, help="folder with backbone/ and tokenizer.json")
    args = parser.parse_args()
    chosen = preset(args.config)
    editor = BASELINES[args.editor]
    recipe = replace(
        editor.recipe,
        seed=args.seed,
        steps_n=args.steps or editor.recipe.steps_n,
        learning_rate=args.learning_rate or editor.recipe.learning_rate,
    )
    editor = replace(editor, recipe=recipe)
    folder = args.model or model_folder(args.config)
    weights, made = load_backbone(folder)
    backbone, weights = at_layer(Backbone(chosen.backbone), weights, editor.layer)
    cfg = chosen.backbone
    tokenizer = load_tokenizer(folder / "tokenizer.json", cfg.pad_id, cfg.bos_id, cfg.eos_id)
    drawn = replace(
        chosen.editor_train, batch_n=recipe.batch_n, routing_n=None, accumulate_n=1, seed=args.seed
    )
    budget = chosen.dataset.budget
    data = EditingData(tokenizer, cfg, drawn, chosen.edit_mixture, budget)
    params = {"backbone": weights, "editor": None}
    shown = data.pictures()
    pictures = jnp.concatenate(
        [
            compiled.see(editor, backbone, params, shown[i : i + 100])
            for i in range(0, len(shown), 100)
        ]
    )
    begin = time.time()
    state, step = train(
        partial(train_step, editor, backbone, weights, pictures),
        init_state(editor, backbone, weights),
        LessonData(data).batch_at,
        recipe.steps_n,
        args.out,
        stop_after_s=args.stop_after and 60 * args.stop_after,
        profile=args.profile,
    )
    print(f"step {step} of {recipe.steps_n} after {time.time() - begin:.0f} s of this run")
    if args.ship:
        recipe_of = {
            "config": args.config,
            "editor": args.editor,
            "settings": asdict(editor),
            "steps": step,
            "backbone_sha256": made["sha256"],
            "seconds": round(time.time() - begin),
        }
        digest = save_weights(args.ship, jax.device_get(state.params), recipe_of)
        print(json.dumps(recipe_of, indent=1), f"\nwrote {args.ship} sha256 {digest}")


if __name__ == "__main__":
    main()
