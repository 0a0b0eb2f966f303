"""Time the editor's training loop against a usual one in PyTorch, on the same model and batches.

    python -m experiments.bench.training --out runs/bench_training

Ours is the loop of `train_editor --config tiny`: prefetched batches, one compiled step, log and
checkpoints. PyTorch's is `reference/textbook_training.py`, in two variants: with whole forward
passes of the frozen model, and with passes that stop after the edit layer where nothing beyond it
is needed. Losses are compared first, then all are timed in turn. Medians of samples per second,
ratios, and the share of our wall time inside the compiled step go to DIR/results.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.forward import named_arrays
from experiments.reference.originals import torch_llava
from experiments.reference.textbook import Textbook, tensors
from experiments.reference.textbook_training import StepDraws, TextbookTraining
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.config import EditorTrainConfig, Preset
from liveedit_jax.data.editing import EditingBatch, EditingData
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.editor.objective import draw_masks, draw_pairs
from liveedit_jax.presets import preset
from liveedit_jax.training.editor import (
    init_state,
    jitted_editor_step,
    lower_from_features,
    picture_features,
    row_features,
)
from liveedit_jax.training.editor_loss import editor_loss
from liveedit_jax.training.loop import train
from liveedit_jax.training.optimizers import TrainState

SAVE_EVERY = 100  # as train_editor


def draw_step(recipe: EditorTrainConfig, n: int, key) -> StepDraws:
    """Draw the same random numbers as `editor_loss` does from a key."""
    mask_key, pair_key, blend_key = jax.random.split(key, 3)
    own, (other_key, share_key) = jnp.arange(recipe.batch_n), jax.random.split(blend_key)
    share = jax.random.uniform(share_key, (n, 1, 1, 1), maxval=recipe.routing_blend).ravel()
    other = jax.random.permutation(other_key, n)
    pairs = draw_pairs(pair_key, n, 4)
    return StepDraws(draw_masks(mask_key, own, own), pairs, np.asarray(other), np.asarray(share))


class Ours:
    """The loop of `train_editor`, with the time spent in its steps."""

    def __init__(self, chosen: Preset, weights: dict, data: EditingData):
        """Compute the vision features of all pictures once, as `train_editor` does."""
        self.backbone, self.chosen = Backbone(chosen.backbone), chosen
        self.weights, self.data = jax.device_put(weights), data
        self.pictures = picture_features(self.backbone, self.weights, data.pictures())
        self.inside_s = 0.0

    def loss(self, recipe: EditorTrainConfig, state: TrainState, batch: EditingBatch, key):
        """Compute the loss of one batch."""
        features = row_features(self.pictures, batch)
        hidden = lower_from_features(self.backbone, self.weights, features, batch)
        run = jax.jit(partial(editor_loss, self.backbone, self.chosen.editor, recipe))
        return float(run(self.weights, state.params, batch, hidden, key)[0])

    def step(self, state: TrainState, batch: EditingBatch):
        """Make one step, wait for it, and add its time to `inside_s`."""
        begin = time.perf_counter()
        recipe, editor = self.data.cfg, self.chosen.editor
        features = row_features(self.pictures, batch)
        known = self.backbone, editor, recipe, lower_from_features, self.weights, features
        found = jax.block_until_ready(jitted_editor_step(*known, state, batch))
        self.inside_s += time.perf_counter() - begin
        return found

    def run(self, steps_n: int, first: int = 0) -> tuple[float, float]:
        """Return the wall time of `steps_n` steps, and its share inside the compiled step."""
        key = jax.random.key(self.data.cfg.seed)
        state = init_state(self.backbone, self.chosen.editor, self.data.cfg, key)
        self.inside_s, begin = 0.0, time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            train(
                self.step, state, lambda i: self.data.batch_at(first + i), steps_n, folder,
                save_every=SAVE_EVERY,
            )  # fmt: skip
        wall = time.perf_counter() - begin
        return wall, self.inside_s / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench_training"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of ours a round")
    parser.add_argument("--textbook-steps", type=int, default=2, help="of the textbook a round")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch

    torch.manual_seed(args.seed)
    chosen = preset("tiny")
    cfg, recipe = chosen.backbone, replace(chosen.editor_train, seed=args.seed)
    image_id = cfg.pad_id  # no text has it
    net = torch_llava(cfg, image_id)
    tokenizer = mojiedit_tokenizer(cfg.decoder.vocab_n)
    data = EditingData(tokenizer, cfg, recipe, chosen.edit_mixture)
    ours = Ours(chosen, convert_weights(cfg, named_arrays(net)), data)
    state = init_state(ours.backbone, chosen.editor, recipe, jax.random.key(args.seed))

    def textbook(stop: bool) -> TextbookTraining:
        book = Textbook(chosen.editor, tensors(state.params))
        return TextbookTraining(cfg, recipe, net, book, image_id, stop)

    books = {"whole passes": textbook(False), "stopped passes": textbook(True)}
    n, key = recipe.routing_n or recipe.batch_n, jax.random.key(args.seed + 1)
    batch = data.batch_at(0)
    some = books["stopped passes"].loss(batch, data.picture, draw_step(recipe, n, key))
    want = float(some.detach())
    error = abs(ours.loss(recipe, state, batch, key) / want - 1)
    print(f"loss {want:.5f}, relative difference {error:.1e}", flush=True)

    ours.run(2 * len(data.lengths) + 6)  # compiles for every T that comes up
    found: dict[str, list[float]] = {name: [] for name in (*books, "ours", "inside")}
    for i in range(args.rounds):
        for name, book in books.items():
            begin = time.perf_counter()
            for j in range(args.textbook_steps):
                at = i * args.textbook_steps + j
                drawn = draw_step(recipe, n, jax.random.fold_in(key, at))
                book.step(data.batch_at(at), data.picture, drawn)
            spent = time.perf_counter() - begin
            found[name].append(args.textbook_steps * n / spent)
        wall, share = ours.run(args.steps, first=i * args.steps)
        found["ours"].append(args.steps * n / wall)
        found["inside"].append(share)
        print({name: round(values[-1], 3) for name, values in found.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in found.items()}
    shape = {"B": recipe.batch_n, "N": n, "T": [length for length, _ in data.lengths]}
    results = {
        "shape": shape,
        "seed": args.seed,
        "loss_error": error,
        "samples_a_s": {name: medians[name] for name in (*books, "ours")},
        "ratios": {name: medians["ours"] / medians[name] for name in books},
        "inside_compiled_step": medians["inside"],
        "rounds": found,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
