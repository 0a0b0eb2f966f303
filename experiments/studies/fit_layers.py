"""Measure how well experts can be written at each edit layer, before any editor is trained.

    python -m experiments.studies.fit_layers --config smol --layers 8,12,16,20 --ranks 32 --out DIR

At each layer, looks and gates (liveedit_jax/training/addressing.py) are fitted to frozen states of
MojiEdit's training edits and measured on edits that the fit did not see: the share of tokens that
are written where they belong and nowhere else. Writes DIR/results.json and DIR/layers.png.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.config import InitFitConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.model_io.model import load_backbone, model_folder, open_tokenizer
from liveedit_jax.presets import PRESETS, preset
from liveedit_jax.training import addressing
from liveedit_jax.training.addressing import Edits, Gates, Looks
from liveedit_jax.training.editor import picture_features
from liveedit_jax.training.statistics import TEXT, standardised, standardising

HELD_OUT = 0.1  # share of the edits that the fit does not see


@jax.jit
def written_share(looks: Looks, gates: Gates, edits: Edits) -> jax.Array:
    """Compute the share of items written by more than a half at their place, and nowhere else."""
    items = addressing.items_of(edits)
    right, wrong = addressing.placed(looks, gates, edits, items)
    good = (right > 0.5) & (wrong.max(-1) < 0.5) & items.mask
    return good.sum() / items.mask.sum()


def measure(edits: Edits, rank: int, cfg: InitFitConfig, seed: int) -> dict[str, float]:
    """Fit on standardised states, and measure the fit on the held-out edits."""
    edits = standardised(edits, standardising(edits.states, edits.role, TEXT))
    cut = int(len(edits.states) * (1 - HELD_OUT))
    seen, unseen = (
        jax.tree.map(lambda leaf, s=s: leaf[s], edits) for s in (slice(None, cut), slice(cut, None))
    )
    looks, gates, loss = addressing.fit(seen, rank, cfg, seed)
    unseen = unseen._replace(states=unseen.states.astype(jnp.float32))
    return {
        "look_loss_fit": loss[0],
        "write_loss_fit": loss[1],
        "look_loss": float(jax.jit(addressing.look_loss)(looks, unseen)),
        "write_loss": float(jax.jit(addressing.write_loss)(looks, gates, unseen)),
        "written": float(written_share(looks, gates, unseen)),
    }


def draw(found: list[dict], file: Path) -> None:
    """Plot the share written against the layer, one line per rank."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for rank in sorted({one["rank"] for one in found}):
        points = [(one["edit_layer"], 100 * one["written"]) for one in found if one["rank"] == rank]
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=f"rank {rank}")
    axes.set(xlabel="edit layer", ylabel="% of unseen edits' tokens written")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="smol", choices=sorted(PRESETS))
    parser.add_argument("--model", type=Path, help="model folder (default: the preset's)")
    parser.add_argument("--layers", default="8,12,16,20,24")
    parser.add_argument("--ranks", default="32")
    parser.add_argument("--edits", type=int, default=6400)
    parser.add_argument("--steps", type=int, default=1200, help="of each of the two fits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    chosen, folder = preset(args.config), args.model or model_folder(args.config)
    stored, made = load_backbone(folder)
    cfg = chosen.backbone
    tokenizer, _ = open_tokenizer(folder, cfg, made)
    recipe = replace(chosen.editor_train, seed=args.seed)
    data = EditingData(tokenizer, cfg, recipe, chosen.edit_mixture)
    pictures = picture_features(Backbone(cfg), stored, data.pictures())
    fitting = replace(recipe.fit, look_steps_n=args.steps, write_steps_n=args.steps)
    batches_n = -(-args.edits // (recipe.routing_n or recipe.batch_n))
    args.out.mkdir(parents=True, exist_ok=True)
    found = []
    for layer in map(int, args.layers.split(",")):
        backbone, weights = Backbone(replace(cfg, edit_layer=layer)), split_at(stored, layer)
        eps = chosen.editor.norm_eps
        edits = addressing.edits_of(backbone, weights, pictures, data, eps, batches_n)
        for rank in map(int, args.ranks.split(",")):
            one = {"edit_layer": layer, "rank": rank}
            found.append(one | measure(edits, rank, fitting, args.seed))
            print(json.dumps(found[-1]), flush=True)
    (args.out / "results.json").write_text(json.dumps(vars(args) | {"fits": found}, default=str))
    draw(found, args.out / "layers.png")


if __name__ == "__main__":
    main()
