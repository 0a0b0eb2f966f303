"""Check six sequential edits from raw ids and pixels, then inference through the repository."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from experiments.reference.golden.case import MODEL_TOLERANCE, Arrays, GoldenCase
from experiments.reference.golden.modules import compare_flat, compare_routed
from experiments.reference.golden.rows import PARTS, image_batch, relabel_answers, text_batch
from liveedit_jax.editor.repository import add_edits, init_repository
from liveedit_jax.types import Batch, Repository, Role, StoredRows

POOL = (("eqr", "text_key"), ("evr", "vision_key"), ("moe_cs", "down"), ("moe_rs", "up"))


def expand_row(case: GoldenCase, ids: np.ndarray, pixels: np.ndarray, answer_n: int) -> Batch:
    """Make a batch of a stored row, with its image token expanded."""
    image_id = case.config["llava"]["image_token_index"]
    return image_batch(ids, image_id, case.backbone.cfg.vision_n, pixels, answer_n)


def check_edit_and_infer(case: GoldenCase) -> None:
    """Check the edits, the resulting pool, and the edited model's outputs over two pools."""
    stored, cfg = case.arrays("edit_and_infer"), case.editor
    empty = init_repository(cfg, case.backbone.cfg.width, len(stored["pool/eqr"]))
    repo = _edit_all(case, stored, empty)
    keys = jnp.asarray(stored["pool_shifted/evr"].reshape(repo.vision_key.value.shape))
    for kind, state in (("natural", repo), ("shifted", repo.replace(vision_key=StoredRows(keys)))):
        n = stored.count(f"infer/{kind}/{{}}/", 7)
        for i in range(n):
            _check_infer(case, stored, f"infer/{kind}/{i}", state)


def _edit_all(case: GoldenCase, stored: Arrays, repo: Repository) -> Repository:
    """Make the edits one by one from raw inputs; compare their states and the final pool."""
    run, n = case.functions, stored.count("edit/{}/", 6)
    case.compare("pool size", np.array(n), np.array(len(stored["pool/eqr"])), 0)
    for i in range(n):
        e = f"edit/{i}"
        prompt, both = stored[f"{e}/prompt_ids"], stored[f"{e}/prompt_target_ids"]
        ids = stored[f"{e}/llava_input_ids"]
        # Both texts start with BOS, which in the model's row stands before the image.
        case.compare(
            f"{e}/prompt_target_ids", np.append(ids[0, 0], ids[0, 1 - len(both) :]), both, 0
        )
        case.compare(f"{e}/prompt_ids", both[: len(prompt)], prompt, 0)
        batch = expand_row(case, ids, stored[f"{e}/pixel_values"], len(both) - len(prompt))
        hidden = run.lower(batch, run.features(batch.image))
        for name, role in PARTS:
            ours = hidden[:, batch.role[0] == role]
            case.compare(f"{e}/reps/{name}", ours, stored[f"{e}/reps/{name}"], MODEL_TOLERANCE)
        expert = run.expert(hidden, batch.role)
        repo, _ = add_edits(repo, expert, jnp.array([i]), jnp.ones(1, bool))
    for name, leaf in POOL:
        compare_flat(case, stored, f"pool/{name}", getattr(repo, leaf).value)
    return repo


def _check_infer(case: GoldenCase, stored: Arrays, item: str, repo: Repository) -> None:
    run = case.functions
    ids, counted = stored[f"{item}/llava_input_ids"], stored[f"{item}/label_masks"]
    label, (begin, end) = stored[f"{item}/label_ids"], stored[f"{item}/query_range"]
    answer_n = label.shape[1] - 1
    compare_labels(case, item, ids, label, counted)
    has_image = f"{item}/pixel_values" in stored
    if has_image:
        batch = expand_row(case, ids, stored[f"{item}/pixel_values"], answer_n)
        compare_span(case, f"{item}/vt_range", batch, stored[f"{item}/vt_range"])
        features = run.features(batch.image)
    else:
        batch, features = text_batch(ids, answer_n), None
    length = batch.role.shape[1]
    expected = (0, length - answer_n if end >= 0 else -1)
    case.check(f"{item}/query_range", (begin, end) == expected, "up to the answer, or not given")
    embeds = run.embed(batch, features)
    want = stored[f"{item}/inputs_embeds"]
    case.compare(f"{item}/inputs_embeds", embeds, want, MODEL_TOLERANCE)
    hidden = run.lower(batch, features)
    if has_image:
        want = stored[f"{item}/edit_layer_out"]
        case.compare(f"{item}/edit_layer_out", hidden, want, MODEL_TOLERANCE)
    plain = run.upper(hidden, batch)
    want = stored[f"{item}/logits_unedited"]
    case.compare(f"{item}/logits_unedited", plain, want, MODEL_TOLERANCE)
    role = batch.role if end >= 0 else relabel_answers(batch.role)
    query = run.query(hidden, role)
    if has_image:
        for name, kind in (("vision_reps", Role.VISION), ("query_reps", Role.PROMPT)):
            ours = hidden[:, role[0] == kind]
            case.compare(f"{item}/{name}", ours, stored[f"{item}/{name}"], MODEL_TOLERANCE)
        added = compare_routed(case, stored, item, repo, query, hidden, role)
    else:
        added = run.route_query(repo, query, hidden, role)["residual"]
        case.check(f"{item} without image", not np.asarray(added).any(), "the residual is zero")
    logits = run.upper(hidden + added, batch)
    case.compare(f"{item}/logits", logits, stored[f"{item}/logits"], MODEL_TOLERANCE)


def compare_labels(
    case: GoldenCase, item: str, ids: np.ndarray, label: np.ndarray, counted: np.ndarray
) -> None:
    """Check that labels are the last S ids shifted by one; the id that wraps round is masked."""
    shifted = np.roll(ids, -1, axis=1)[:, -label.shape[1] :]
    case.compare(f"{item}/label_ids", shifted, label, 0)
    ours = np.arange(label.shape[1])[None] < label.shape[1] - 1
    case.compare(f"{item}/label_masks", ours.astype(counted.dtype), counted, 0)


def compare_span(case: GoldenCase, item: str, batch: Batch, want: np.ndarray) -> None:
    """Check the begin and end of the image tokens."""
    place = np.flatnonzero(batch.role[0] == Role.VISION)
    case.compare(item, np.array([place[0], place[-1] + 1]), want, 0)
