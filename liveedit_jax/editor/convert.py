"""Exact conversion of editor weights between the released PyTorch code's names and our tree."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from liveedit_jax.backbones.convert import Rule, convert, transpose
from liveedit_jax.config import EditorConfig
from liveedit_jax.editor.liveedit import init_params


def name_table() -> dict[str, tuple[str, str]]:
    """Map each released name to our path and a kind: "linear", "row" ([1, a, b]) or "same"."""
    table = {}

    def norm(theirs: str, ours: str) -> None:
        table[f"{theirs}.weight"] = (f"{ours}/scale", "same")
        table[f"{theirs}.bias"] = (f"{ours}/bias", "same")

    def attention(theirs: str, ours: str) -> None:
        for n in "qkv":
            table[f"{theirs}.{n}_mlp.weight"] = (f"{ours}/{n}/kernel", "linear")
            table[f"{theirs}.{n}_mlp.bias"] = (f"{ours}/{n}/bias", "same")

    for theirs, ours in (("edit_extractor", "edit"), ("inpt_extractor", "input")):
        norm(f"{theirs}.layer_norm1", f"{ours}/norm1")
        norm(f"{theirs}.layer_norm2", f"{ours}/norm2")
        table[f"{theirs}.eqe1"] = (f"{ours}/vision_query", "row")
        table[f"{theirs}.eqe2"] = (f"{ours}/text_query", "row")
        attention(f"{theirs}.ca_query_info_ext1", f"{ours}/prompt_attention")
        attention(f"{theirs}.ca_vision_info_ext", f"{ours}/vision_attention")
        attention(f"{theirs}.ca_query_info_ext2", f"{ours}/text_attention")
    table["inpt_extractor.vis_rep_prot"] = ("input/sentinel", "row")
    for theirs, ours in (("moegen_c", "down"), ("moegen_r", "up")):
        table[f"{theirs}.phi"] = (f"{ours}/query", "row")
        norm(f"{theirs}.layer_norm", f"{ours}/norm")
        attention(f"{theirs}.ca_lora", f"{ours}/attention")
    norm("instant_reps_norm", "norm")
    return table


INWARD = {"linear": transpose, "row": lambda a: a[0], "same": lambda a: a}
OUTWARD = {"linear": transpose, "row": lambda a: a[None], "same": lambda a: a}


def from_released(
    cfg: EditorConfig, width: int, vision_n: int, weights: Mapping[str, np.ndarray]
) -> dict:
    """Convert a released state dict to our parameters.

    Args:
        cfg: the editor's sizes.
        width: D, the decoder's width.
        vision_n: P, the number of the sentinel's rows.
        weights: the state dict as numpy arrays.

    Raises:
        ValueError: weights do not fit; the message lists every unknown, missing, mis-shaped or
            non-finite name.
    """
    rules = [
        Rule(theirs.replace(".", r"\."), ours, INWARD[kind])
        for theirs, (ours, kind) in name_table().items()
    ]
    like = jax.eval_shape(lambda key: init_params(key, cfg, width, vision_n), jax.random.key(0))
    return convert(weights, rules, like)


def to_released(params: dict) -> dict[str, np.ndarray]:
    """Convert our parameters to a released state dict, the inverse of `from_released`."""
    weights = {}
    for theirs, (ours, kind) in name_table().items():
        leaf = params
        for part in ours.split("/"):
            leaf = leaf[part]
        weights[theirs] = np.ascontiguousarray(OUTWARD[kind](np.asarray(leaf)))
    return weights
