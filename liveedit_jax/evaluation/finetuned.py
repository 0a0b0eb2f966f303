"""The fine-tuning baseline under the same probes: all edits one after another, then every probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import traverse_util

from liveedit_jax.baselines import finetune
from liveedit_jax.baselines.finetune import FinetuneConfig
from liveedit_jax.evaluation import predict, protocol
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.layout import batches, make_rows, padded, take
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.evaluation.probes import EDIT, Case
from liveedit_jax.evaluation.run_folder import RunFolder

SAVE_EVERY = 250  # edits


def tune(
    subject: Subject,
    cfg: FinetuneConfig,
    cases: Sequence[Case],
    known: protocol.Known,
    state: dict | None = None,
) -> dict:
    """The fine-tuned MLP after the edits of `cases`, in their order, starting from `state`."""
    params, shapes = {"backbone": subject.weights}, subject.shapes
    asked = [case.probes[EDIT] for case in cases]
    rows = make_rows(subject.tokenizer, subject.backbone.cfg, asked, shapes)
    features = predict.vision_features(subject, [p.image for p in asked], known)
    inputs: dict[int, tuple[np.ndarray, int]] = {}
    for group, t in batches(rows, range(len(rows)), shapes):
        chosen = padded(group, shapes.batch_n)
        states = finetune.jit_mlp_input(
            subject.backbone, params, take(rows, chosen, t), np.stack([features[i] for i in chosen])
        )
        inputs |= {int(i): (x, t) for i, x in zip(group, np.asarray(states), strict=False)}
    if state is None:
        state = jax.tree.map(np.asarray, finetune.init(subject.backbone, params))
    for i in range(len(rows)):
        states, t = inputs[i]
        batch = take(rows, np.asarray([i]), t)
        state, _ = finetune.jit_edit(cfg, subject.backbone, params, state, states[None], batch)
    return jax.block_until_ready(state)


def evaluate_finetune(
    subject: Subject,
    cfg: FinetuneConfig,
    cases: Sequence[Case],
    block_n: int,
    folder: RunFolder,
    known: protocol.Known,
    save: Callable[[str, object, int], None],
) -> None:
    """Fine-tune on all cases, evaluate all their probes, and save the lines block by block."""
    blocks = list(protocol.blocks(cases, block_n))
    state = _tuned(subject, cfg, cases, folder, known, save)
    params = {"backbone": subject.weights}
    weights = jax.jit(finetune.merged, static_argnums=0)(subject.backbone, params, state)
    decoder = Decoder(subject, weights, known)
    for b, block in enumerate(blocks):
        name = f"finetune_block_{b:05d}"
        if folder.read(name) is not None:
            continue
        before = {
            (line["case"], line["probe"]): line
            for line in folder.read(f"block_{b:05d}")["lines"][::-1]
        }
        rows = make_rows(subject.tokenizer, subject.backbone.cfg, block.probes, subject.shapes)
        features = predict.vision_features(subject, [p.image for p in block.probes], known)
        after = np.zeros((len(rows), subject.shapes.answer_n + 1), np.int32)
        for group, t in batches(rows, range(len(rows)), subject.shapes):
            chosen = padded(group, subject.shapes.batch_n)
            ids = predict.unedited_ids(
                subject.backbone,
                weights,
                take(rows, chosen, t),
                np.stack([features[i] for i in chosen]),
                rows.position[chosen],
            )
            after[group] = np.asarray(ids)[: len(group)]
        text = decoder.unedited(rows, block.probes, after)
        for line in before.values():
            line.pop("margin", None)  # nothing routes here
        lines = [
            before[int(block.case[i]), block.kind[i]]
            | {
                "mark": len(cases),
                "chunk": 0,
                "after_ids": after[i, : len(rows.answer[i])].tolist(),
                "generated": text[i],
                "hit_n": 0,
            }
            for i in range(len(rows))
        ]
        save(name, {"lines": lines}, 4 * len(block.cases))


def _tuned(subject, cfg, cases, folder: RunFolder, known, save) -> dict:
    """The state after all edits, resumed from the last saving."""
    done = folder.read("finetune_state") or {"edits": 0}
    state, at = None, done["edits"]
    if at:
        with np.load(folder.work / f"finetune_{at}.npz") as stored:
            state = traverse_util.unflatten_dict({n: stored[n] for n in stored.files}, sep="/")
    while at < len(cases):
        part = cases[at : at + SAVE_EVERY]
        state = tune(subject, cfg, part, known, state)
        at += len(part)
        flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, state), sep="/")
        np.savez(folder.work / f"finetune_{at}.npz", **flat)
        save("finetune_state", {"edits": at}, 5 * len(part))
    return state
