"""Measure how much memory an editor's training step needs, by compiling it; nothing is run.

    python -m experiments.pods.size_training --model llava-1.5-7b --int8 --batch 4 --budget-gb 24

Compiles for the CPU, which widens bfloat16 products to float32, so temporaries are an upper bound
on an accelerator's. Exits with 1 if the sum is above the budget.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.quantise import quantise
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.data.images import square_layout
from liveedit_jax.data.layout import tokens_n
from liveedit_jax.presets import PUBLISHED, preset
from liveedit_jax.training.editor import init_state, jitted_editor_step, lower_from_features


def bytes_of(tree) -> int:
    """Count the bytes of all leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(PUBLISHED), default="llava-1.5-7b")
    parser.add_argument("--batch", type=int, default=4, help="samples a step")
    parser.add_argument("--int8", action="store_true", help="frozen kernels in 8 bits")
    parser.add_argument("--budget-gb", type=float, default=24.0)
    args = parser.parse_args()
    chosen = preset(args.model)
    backbone, recipe = Backbone(chosen.backbone), replace(chosen.editor_train, batch_n=args.batch)
    cfg, n = chosen.backbone, args.batch

    def weights():
        half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), backbone.init(jax.random.key(0)))
        return quantise(half) if args.int8 else half

    whole = jax.eval_shape(weights)
    # a step starts from vision features: the tower is not resident while the editor trains
    frozen = {k: v for k, v in whole.items() if k not in ("vision", "projector")}
    state = jax.eval_shape(lambda: init_state(backbone, chosen.editor, recipe, jax.random.key(0)))
    budget = chosen.dataset.budget
    t = 1 + tokens_n(square_layout(cfg)) + budget.prompt_n + budget.answer_n
    shape = jax.ShapeDtypeStruct
    picture = shape((4 * n, *cfg.image_shape), jnp.bfloat16)
    features = jax.eval_shape(backbone.vision_features, whole, picture)
    batch = EditingBatch(
        token=shape((4, n, t), jnp.int32),
        role=shape((4, n, t), jnp.int8),
        picture=shape((4, n), jnp.int32),
        place=None if cfg.tiles is None else shape((4, n, t), jnp.int32),
    )
    begin = time.time()
    known = backbone, chosen.editor, recipe, lower_from_features, frozen, features
    compiled = jitted_editor_step.lower(*known, state, batch).compile()
    memory = compiled.memory_analysis()
    found = {
        "model": args.model,
        "batch": n,
        "T": t,
        "int8": args.int8,
        "frozen_gb": bytes_of(frozen) / 1e9,
        "editor_and_optimizer_gb": bytes_of(state) / 1e9,
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "temporaries_gb": memory.temp_size_in_bytes / 1e9,
        "output_beyond_donated_gb": (memory.output_size_in_bytes - memory.alias_size_in_bytes)
        / 1e9,
        "compile_s": time.time() - begin,
    }
    found["total_gb"] = sum(
        found[k] for k in ("arguments_gb", "temporaries_gb", "output_beyond_donated_gb")
    )
    print(json.dumps(found, indent=1))
    sys.exit(found["total_gb"] > args.budget_gb)


if __name__ == "__main__":
    main()
