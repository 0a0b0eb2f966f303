"""Compiling every step of a run once, up front: more edits then compile nothing more."""

from __future__ import annotations

import numpy as np

from liveedit_jax.backbones.generation import generate
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.editor.liveedit import AddExperts, Plan
from liveedit_jax.evaluation import predict
from liveedit_jax.evaluation.layout import widths
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.types import Batch, Query, Repository, Role


def _blank(n: int, t: int) -> Batch:
    role = np.full((n, t), Role.PROMPT, np.int8)
    role[:, 0] = Role.PRE
    return without_pixels(np.zeros((n, t), np.int32), role)


def warm_up(subject: Subject, repo: Repository) -> None:
    """Run each compiled step on blank rows of each of its shapes."""
    backbone, cfg, shapes = subject.backbone, subject.cfg, subject.shapes
    weights, editor = subject.weights, subject.editor
    b, k = shapes.batch_n, min(cfg.top_k, repo.born.shape[0])
    side, key_n = backbone.cfg.vision.image_size, cfg.queries_n * cfg.module_width
    features = np.zeros((b, backbone.cfg.vision_n, backbone.cfg.width), np.float32)
    position = np.zeros((b, shapes.answer_n + 1), np.int32)
    slot, weight = np.zeros((b, k), np.int32), np.zeros((b, k), np.float32)
    predict.vision(backbone, weights, np.zeros((b, side, side, 3), np.float32))
    keys = np.zeros((b, key_n), np.float32)
    query = Query(keys, keys, np.zeros(b, np.float32))
    predict.routed(cfg, repo, query, np.zeros((b, 1), np.int32))
    prompt, steps_n = _blank(b, 1 + backbone.cfg.vision_n + shapes.prompt_n), shapes.steps_n
    generate(backbone, weights, prompt, steps_n, None, None, steps_n, features=features)
    for n in widths(k):
        plan = Plan(editor.norm, weight[:, :n], *predict.bodies(repo, slot[:, :n]))
        add = AddExperts(cfg)
        generate(backbone, weights, prompt, steps_n, plan, add, steps_n, features=features)
    for t in (shapes.short_n, shapes.long_n):
        batch = _blank(b, t)
        hidden, _, _ = predict.encode(backbone, cfg, weights, editor, batch, features, position)
        hidden = np.asarray(hidden)
        predict.experts(cfg, editor, hidden, batch.role)
        for n in widths(k):
            routed = slot[:, :n], weight[:, :n]
            predict.edited_ids(
                backbone, cfg, weights, editor, repo, hidden, batch, *routed, position
            )
