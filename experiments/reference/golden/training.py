"""Check one training batch of the released code: losses, gradients, residuals, logits and Adam."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.reference.golden.case import (
    ADAM_TOLERANCE,
    MODEL_TOLERANCE,
    MODULE_TOLERANCE,
    Arrays,
    GoldenCase,
)
from experiments.reference.golden.training_inputs import Step, pad_samples, read_step
from liveedit_jax.editor import extractor, liveedit, objective
from liveedit_jax.editor.attention import with_norm_stats
from liveedit_jax.editor.convert import to_released
from liveedit_jax.editor.routing import similarity
from liveedit_jax.training.optimizers import editor_optimizer
from liveedit_jax.types import Role

LOGS = {
    "Reliability loss": lambda e, r: e["reliability"],
    "Generality loss": lambda e, r: sum(e["generality"]),
    "Locality loss": lambda e, r: e["locality"],
    "MoE soft routing relative loss": lambda e, r: r["soft_relative"],
    "MoE soft routing abstract loss": lambda e, r: r["soft_absolute"],
    "MoE soft routing loss": lambda e, r: r["soft_relative"] + r["soft_absolute"],
    "MoE hard routing neighbor loss": lambda e, r: r["hard_neighbour"],
    "MoE hard routing prototype loss": lambda e, r: r["hard_other"],
    "MoE hard routing loss": lambda e, r: r["hard_neighbour"] + r["hard_other"],
}
POSITIVE = "MoE soft routing mean abstract positive similarity"
NEGATIVE = "MoE soft routing mean abstract negative similarity"
NOISE = "k_mlp.bias"  # its true gradient is zero, the stored one is rounding noise


def check_training(case: GoldenCase) -> None:
    """Check every stored step of the batch."""
    stored, step = case.arrays("train_outputs"), _pad_to_longest(read_step(case))
    names = [name for name in case.arrays("editor_weights").arrays if NOISE not in name]
    run = jax.jit(
        jax.value_and_grad(
            lambda weights, params, arguments: objective.training_loss(
                case.editor, case.training, case.backbone, weights, params, *arguments
            ),
            argnums=1,
            has_aux=True,
        )
    )
    logged = json.loads((case.folder / "train_log.json").read_text())["log"]
    params, moments = case.editor_weights, None
    for s in range(stored.count("step{}/", case.least_n(3))):
        (total, (edits, routing, seen)), gradient = run(
            case.backbone_weights, params, step.arguments
        )
        _check_logs(case, stored, logged, s, total, edits, routing, step, params)
        if s == 0:
            _check_seen(case, stored, step, seen)
        ours = to_released(gradient)
        for name in names:
            if not case.is_part or f"step{s}/grad/{name}" in stored:
                want = stored[f"step{s}/grad/{name}"]
                case.compare(f"step{s}/grad/{name}", ours[name], want, MODEL_TOLERANCE)
        if case.is_part:  # without most gradients there is no Adam to check
            return
        params, moments = _check_adam(case, stored, s, names, params, moments)


def _pad_to_longest(step: Step) -> Step:
    longest = max(max(lengths) for lengths in step.lengths)
    return replace(
        step,
        reliability=pad_samples(step.reliability, longest),
        generalities=tuple(pad_samples(g, longest) for g in step.generalities),
        locality=pad_samples(step.locality, longest),
    )


def _check_logs(case, stored: Arrays, logged, s, total, edits, routing, step, params) -> None:
    """Check every logged scalar, in the arrays and in train_log.json."""

    def compare(name: str, item: str, ours) -> None:
        for where, want in ((name, stored[f"step{s}/{name}"]), ("json", logged[f"step{s}"][item])):
            case.compare(f"step{s}/{item} ({where})", float(ours), np.array(want), MODEL_TOLERANCE)

    compare("total_loss", "total_loss", total)
    cuts, rate = case.training.lr_cut_steps, case.training.learning_rate
    for name, item, at in (
        ("lr_used", "lr_used", s),
        ("log/Learning rate", "Learning rate", s + 1),
    ):
        compare(name, item, rate * case.training.lr_cut_rate ** sum(cut < at for cut in cuts))
    for name, of in LOGS.items():
        compare(f"log/{name}", name, of(edits, routing))
    for group, loss in zip(step.groups[1:-1], edits["generality"], strict=True):
        name = f"Generality loss {group.split('/')[1]}"
        compare(f"log/{name}", name, loss)
    name = f"Locality loss {step.groups[-1].split('/')[1]}"
    compare(f"log/{name}", name, edits["locality"])
    score = jax.nn.sigmoid(_soft_scores(case, step, params))
    i = np.arange(len(score))
    compare(f"log/{POSITIVE}", POSITIVE, score[i, i].mean())
    compare(f"log/{NEGATIVE}", NEGATIVE, score[i, (i - 1) % len(i)].mean())


def _soft_scores(case: GoldenCase, step: Step, params: dict) -> jax.Array:
    editor = liveedit.prepare(case.editor, params)
    text = [
        extractor.prompt_features(
            side,
            with_norm_stats(step.pool.hidden[:, i], case.editor.norm_eps),
            step.pool.role[:, i] == Role.PROMPT,
        )[0]
        for i, side in enumerate((editor.input, editor.edit))  # the neighbours' two sides
    ]
    return similarity(case.editor, *(feature.reshape(len(feature), -1) for feature in text))


def _check_seen(case: GoldenCase, stored: Arrays, step: Step, seen: dict) -> None:
    """Check the residuals and logits of all samples, and the locality targets."""
    inputs = case.arrays("train_inputs")
    for i, (group, lengths) in enumerate(zip(step.groups, step.lengths, strict=True)):
        for j, t in enumerate(lengths):
            name = f"{group}/{j}"
            for item, ours, tolerance in (
                ("residual", seen["residual"], MODULE_TOLERANCE),
                ("logits", seen["logits"], MODEL_TOLERANCE),
            ):
                if case.is_part and f"step0/{item}/{name}" not in stored:
                    continue
                want = stored[f"step0/{item}/{name}"]
                case.compare(f"step0/{item}/{name}", ours[j, i][None, :t], want, tolerance)
            if group == step.groups[-1] and not case.is_part:
                want = inputs[f"{name}/pre_logits"]
                ours = seen["original"][j][None, :t]
                case.compare(f"{name}/pre_logits", ours, want, MODEL_TOLERANCE)


def _check_adam(case: GoldenCase, stored: Arrays, s: int, names, params: dict, moments):
    """Check our optimiser on the stored gradients; returns the stored parameters to go on from."""

    def tree(kind: str) -> dict:
        every = case.arrays("editor_weights").arrays
        return case.convert_released({name: stored[f"step{s}/{kind}/{name}"] for name in every})

    optimizer = editor_optimizer(case.training)
    moments = optimizer.init(params) if moments is None else moments
    updates, moments = optimizer.update(tree("grad"), moments, params)
    ours = to_released(optax.apply_updates(params, updates))
    for name in names:
        want = stored[f"step{s}/params_after/{name}"]
        case.compare(f"step{s}/params_after/{name}", jnp.asarray(ours[name]), want, ADAM_TOLERANCE)
    return tree("params_after"), moments
