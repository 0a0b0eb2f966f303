"""Fine-tuning beside LiveEdit, in the same run: all edits one after another, then every probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.evaluation import protocol
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.editors import ask_unedited, chunk_lines
from liveedit_jax.evaluation.probes import EDIT, Case
from liveedit_jax.evaluation.run_folder import RunFolder
from liveedit_jax.evaluation.trial import Trial

SAVE_EVERY = 250  # edits


def evaluate_finetune(
    decoder: Decoder,
    editor: FtL,
    cases: Sequence[Case],
    block_n: int,
    folder: RunFolder,
    save: Callable[[str, object, int], None],
) -> None:
    """Fine-tune on all cases, evaluate all their probes, and save the lines block by block.

    Args:
        decoder: of the unedited model; it may know what that generates.
        editor: how each edit is fine-tuned.
        cases: the edits, in order.
        block_n: cases that are asked about at once.
        folder: finished parts.
        save: writes a part and counts its share of the work.
    """
    trial = Trial.of(decoder.subject, editor, seen=decoder.seen)
    state = _tuned(trial, cases, folder, save)
    for b, block in enumerate(protocol.blocks(cases, block_n)):
        name = f"finetune_block_{b:05d}"
        if not folder.has(name):
            asked = ask_unedited(trial, decoder, block)
            rows = range(len(block.probes))
            lines = chunk_lines(trial, decoder, state, block, asked, len(cases), rows)
            save(name, {"lines": lines}, 4 * len(block.cases))


def _tuned(trial: Trial, cases: Sequence[Case], folder: RunFolder, save) -> Any:
    """The state after all edits, resumed from the last saving."""
    at = (folder.read("finetune_state") or {"edits": 0})["edits"]
    edits = trial.init(len(cases))
    if at:
        with np.load(folder.work / f"finetune_{at}.npz") as stored:
            flat = {name: jax.numpy.asarray(stored[name]) for name in stored.files}
        edits = edits._replace(state=traverse_util.unflatten_dict(flat, sep="/"), taken_n=at)
    while at < len(cases):
        part = cases[at : at + SAVE_EVERY]
        edits = trial.edited(edits, [case.probes[EDIT] for case in part])
        at += len(part)
        flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, edits.state), sep="/")
        np.savez(folder.work / f"finetune_{at}.npz", **flat)
        save("finetune_state", {"edits": at}, 5 * len(part))
    return edits.state
