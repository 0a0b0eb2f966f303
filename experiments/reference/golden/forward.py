"""Check the case's small LLaVA alone: vision tower, projector, every layer, logits."""

from __future__ import annotations

import numpy as np

from experiments.reference.golden.case import MODEL_TOLERANCE, Arrays, GoldenCase
from liveedit_jax.backbones.sequence import positions
from liveedit_jax.types import Batch, Role


def check_forward(case: GoldenCase) -> None:
    """Check single rows, a right-padded batch, and a row without image."""
    stored = case.arrays("llava_forward")
    singles = [f"single/{i}" for i in range(stored.count("single/{}/", 3))]
    for name in (*singles, "batch", "textonly"):
        _check_rows(case, stored, name)


def _check_rows(case: GoldenCase, stored: Arrays, name: str) -> None:
    run, has_image = case.functions, name != "textonly"
    ids, mask = stored[f"{name}/input_ids"], stored[f"{name}/attention_mask"]
    begin, end = stored[f"{name}/vt_range"] if has_image else (1, 1)
    if has_image:
        _check_image_span(case, name, ids, begin, end)
    given = stored[f"{name}/input_attention_mask"]
    gap = np.ones((len(ids), end - begin), given.dtype)
    expanded = np.concatenate([given[:, :begin], gap, given[:, begin + has_image :]], axis=1)
    case.compare(f"{name}/attention_mask", expanded, mask, 0)

    real = mask > 0
    role = np.where(real, Role.PROMPT, Role.PAD).astype(np.int8)
    token, features = ids, None
    if has_image:
        role[:, :begin], role[:, begin:end] = Role.PRE, Role.VISION
        blank = np.zeros((len(ids), end - begin), ids.dtype)
        token = np.concatenate([ids[:, :begin], blank, ids[:, begin + 1 :]], axis=1)
        pixels = stored[f"{name}/pixel_values"].transpose(0, 2, 3, 1)
        features = run.features(pixels)
        for item, ours in (("vision_selected", run.tower(pixels)), ("image_features", features)):
            case.compare(f"{name}/{item}", ours, stored[f"{name}/{item}"], MODEL_TOLERANCE)
    batch = Batch(token.astype(np.int32), role, None)
    if has_image:
        ours = np.where(real, np.asarray(positions(run.backbone.cfg.decoder, batch)), 1)
        case.compare(f"{name}/position_ids", ours, stored[f"{name}/position_ids"], 0)

    def compare(item: str, ours) -> None:
        ours, want = np.asarray(ours), stored[f"{name}/{item}"]
        if ours.shape != want.shape:
            case.fail(f"{name}/{item}", f"shape {ours.shape}, stored {want.shape}")
            return
        keep = real[..., None]
        case.compare(f"{name}/{item}", ours * keep, want * keep, MODEL_TOLERANCE)

    embeds = run.embed(batch, features)
    compare("inputs_embeds", embeds)
    compare("hidden_states/0", embeds)
    for i, ours in enumerate(run.layers(embeds, batch)):
        compare(f"hidden_states/{i + 1}", ours)
    hidden = run.lower(batch, features)
    compare("edit_layer_out", hidden)
    compare("logits", run.upper(hidden, batch))


def _check_image_span(case: GoldenCase, name: str, ids: np.ndarray, begin: int, end: int) -> None:
    at = np.argmax(ids == case.config["llava"]["image_token_index"], axis=1)
    holds = bool((at == begin).all()) and end - begin == case.backbone.cfg.vision_n
    case.check(f"{name}/vt_range", holds, "the image token's place, P wide")
