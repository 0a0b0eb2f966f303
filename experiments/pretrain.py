"""Pretrain a small VLLM from scratch on MojiEdit's facts.

    python -m experiments.pretrain --config tiny --out runs/pretrain [--stop-after MINUTES]
    python -m experiments.pretrain --config tiny --out runs/pretrain --ship checkpoints/tiny

    python -m experiments.pretrain --config smol --out runs/smol   # its projector alone

An interrupted or stopped run is resumed by the same command. A step takes about 2 s on 2 cores.
`--start-from MODEL` continues from a model's weights with a fresh optimiser at `--learning-rate`.
`--ship` evaluates the trained weights and writes them with their recipe. `--recipe FILE` takes the
settings of earlier weights.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import jax

from experiments.training import bridge as pretrain_bridge
from experiments.training.arguments import (
    one_line_errors,
    seconds_left,
    to_ship,
    training_parser,
)
from liveedit_jax.backbones import Backbone
from liveedit_jax.config import PretrainConfig, as_dict
from liveedit_jax.data.facts import entities
from liveedit_jax.data.pretraining import PretrainingData
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.evaluation.knowledge import fact_accuracy, measure_base
from liveedit_jax.evaluation.questions import drawings
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.model_io.model import save_backbone
from liveedit_jax.model_io.weights import load_weights
from liveedit_jax.presets import preset
from liveedit_jax.training.loop import record_start, train
from liveedit_jax.training.pretrain import init_state, pretrain_step


def main() -> None:
    with one_line_errors("pretrain"):
        _main()


def _main() -> None:
    begin = time.time()
    parser = training_parser(__doc__, "runs/pretrain", "weights and tokenizer")
    parser.add_argument("--start-from", type=Path, help="model folder whose backbone to go on from")
    parser.add_argument("--recipe", type=Path, help="recipe.json of earlier weights: its settings")
    args = parser.parse_args()

    chosen = preset(args.config)
    if chosen.bridge_train is not None:
        pretrain_bridge.run(args, chosen)
        return
    if args.bf16:
        parser.error(f"--bf16 is for frozen decoders; --config {args.config} trains its own")
    asked = chosen.pretrain if args.recipe is None else read_recipe(args.recipe)
    cfg = replace(
        asked,
        seed=args.seed,
        steps_n=args.steps or asked.steps_n,
        learning_rate=args.learning_rate or asked.learning_rate,
    )
    start, before = load_weights(args.start_from / "backbone") if args.start_from else (None, None)
    backbone = Backbone(chosen.backbone)
    tokenizer = mojiedit_tokenizer(chosen.backbone.decoder.vocab_n)
    data = PretrainingData(tokenizer, chosen.backbone, cfg)
    some = entities()[::8]

    def evaluate(state):
        figures = {}
        for name, shown, evaluation in (
            ("train", drawings(some, False), False),
            ("eval_templates", drawings(some, False), True),
            ("held_out", drawings(entities(), True), False),
        ):
            measured = fact_accuracy(backbone, state.params, tokenizer, shown, evaluation)
            figures |= {f"{name}/{k}": measured[k] for k in ("english", "languages", "name")}
        return figures

    starts = record_start(args.out, {"pretrain": asdict(cfg)})
    (args.out / "config.json").write_text(json.dumps(as_dict(chosen) | {"run": asdict(cfg)}))
    state, step = train(
        lambda state, batch: pretrain_step(backbone, cfg, state, batch),
        init_state(backbone, cfg, jax.random.key(cfg.seed), start),
        data.batch_at,
        cfg.steps_n,
        args.out,
        save_every=200,
        evaluate=evaluate,
        evaluate_every=1000,
        stop_after_s=seconds_left(args, begin),
        profile=args.profile,
    )
    if to_ship(args, step, cfg.steps_n, begin):
        figures = measure_base(backbone, state.params, tokenizer)
        recipe = {
            "config": args.config,
            "steps": step,
            "started_from": before,
            "starts": starts,  # more than one where a resumed run went on with another recipe
            "commit": git_commit(),
            "pretrain": asdict(cfg),
            "backbone": as_dict(chosen.backbone),
            "token_accuracy": figures,
        }
        digest = save_backbone(args.ship, state.params, recipe, tokenizer)
        print(json.dumps(figures, indent=1), f"\nwrote {args.ship} sha256 {digest}")


def read_recipe(file: Path) -> PretrainConfig:
    """Return the settings that weights were pretrained with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no recipe of a pretraining.
    """
    try:
        return PretrainConfig(**json.loads(file.read_text())["pretrain"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no recipe of a pretraining ({error})") from error


if __name__ == "__main__":
    main()
