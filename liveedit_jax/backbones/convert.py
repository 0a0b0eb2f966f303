"""Weights under foreign names into our trees, by one regex table that accounts for every name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    """Names matching `pattern` go to leaf `path` (None: known and not needed).

    A `(?P<layer>\\d+)` group stacks the layers that `stack` lists into one leaf, in its order.
    """

    pattern: str
    path: str | None
    transform: Callable[[np.ndarray], np.ndarray] = lambda array: array
    layers: Sequence[int] | None = None


def transpose(array: np.ndarray) -> np.ndarray:
    """torch's [out, in] to our [in, out]."""
    return array.T


def convert(weights: Mapping[str, np.ndarray], rules: Sequence[Rule], like: dict) -> dict:
    """Fill a tree shaped as `like` (arrays or ShapeDtypeStructs) from named weights.

    Raises:
        ValueError: listing every unknown, doubled, missing, mis-shaped or non-finite name.
    """
    problems, found = [], {}
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    for name, array in weights.items():
        matches = [(m, rule) for p, rule in compiled if (m := p.fullmatch(name))]
        matches = [
            (m, rule)
            for m, rule in matches
            if rule.layers is None or int(m["layer"]) in rule.layers
        ]
        if len(matches) != 1:
            problems.append(f"unknown name {name}" if not matches else f"ambiguous name {name}")
            continue
        match, rule = matches[0]
        if rule.path is None:
            continue
        layer = None if rule.layers is None else rule.layers.index(int(match["layer"]))
        if (rule.path, layer) in found:
            problems.append(f"doubled name {name}: {rule.path} was filled before")
            continue
        if not np.isfinite(array).all():
            problems.append(f"non-finite values in {name}")
        found[rule.path, layer] = rule.transform(np.asarray(array))

    def fill(tree: dict, prefix: str) -> dict:
        filled = {}
        for name, leaf in tree.items():
            path = f"{prefix}{name}"
            if isinstance(leaf, dict):
                filled[name] = fill(leaf, path + "/")
                continue
            parts = sorted((k for k in found if k[0] == path), key=lambda k: k[1] or 0)
            stacked = bool(parts) and parts[0][1] is not None
            if not parts or (stacked and len(parts) != leaf.shape[0]):
                problems.append(f"missing weights for {path} ({len(parts)} of its parts found)")
                continue
            arrays = [found[k] for k in parts]
            if len({array.shape for array in arrays}) > 1:
                problems.append(f"layers of different shapes for {path}")
                continue
            array = np.stack(arrays) if stacked else arrays[0]
            if array.shape != leaf.shape:
                problems.append(f"{path} has shape {array.shape}, expected {leaf.shape}")
            filled[name] = array.astype(np.float32)
        return filled

    tree = fill(like, "")
    if problems:
        raise ValueError("weights do not fit:\n  " + "\n  ".join(problems))
    return tree
