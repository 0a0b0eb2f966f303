"""Conversion of named weights to our trees, by a regex table that must account for every name.

All names are resolved before any weight is read. Leaves are then converted one at a time, so that
at most one leaf is held in memory besides those that are finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


class Piece(NamedTuple):
    """The entries `start` to `stop` of a leaf along an axis."""

    axis: int
    start: int
    stop: int

    @property
    def place(self) -> tuple[slice, ...]:
        """Return the index of the piece."""
        return (*[slice(None)] * self.axis, slice(self.start, self.stop))


class Rule(NamedTuple):
    """A row of a conversion table: names that match `pattern` go to leaf `path`.

    The path is None for weights that are known and not needed.
    With a `(?P<layer>\\d+)` group, the layers in `layers` are stacked into one leaf, in that order.
    A fused tensor has one rule per leaf that it holds, each with `part` set. Where a leaf is stored
    in pieces, each has a rule with the `Piece` of the leaf that it fills.
    """

    pattern: str
    path: str | None
    transform: Callable[[np.ndarray], np.ndarray] = lambda array: array
    layers: Sequence[int] | None = None
    part: bool = False
    piece: Piece | None = None


def transpose(array: np.ndarray) -> np.ndarray:
    """Transpose a linear layer from torch's [out, in] to our [in, out]."""
    return array.T


def patch_kernel(array: np.ndarray) -> np.ndarray:
    """Reshape a patch convolution [W, 3, p, p] to a matrix [p*p*3, W] over flattened patches."""
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def norm_rules(theirs: str, ours: str, layers: Sequence[int] | None = None) -> list[Rule]:
    """Build the rules of a LayerNorm: weight and bias become scale and bias."""
    return [
        Rule(rf"{theirs}\.weight", f"{ours}/scale", layers=layers),
        Rule(rf"{theirs}\.bias", f"{ours}/bias", layers=layers),
    ]


def linear_rules(theirs: str, ours: str, layers: Sequence[int] | None = None) -> list[Rule]:
    """Build the rules of a linear layer: weight and bias become kernel and bias."""
    return [
        Rule(rf"{theirs}\.weight", f"{ours}/kernel", transpose, layers),
        Rule(rf"{theirs}\.bias", f"{ours}/bias", layers=layers),
    ]


def _resolve(
    names: Sequence[str], rules: Sequence[Rule]
) -> tuple[dict[tuple[str, Piece | int | None], tuple[str, Rule]], list[str]]:
    """Map (path, layer or piece) to (name, rule), and list unknown and ambiguous names."""
    found: dict[tuple[str, Piece | int | None], tuple[str, Rule]] = {}
    problems = []
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    for name in names:
        matches = [(m, rule) for p, rule in compiled if (m := p.fullmatch(name))]
        matches = [(m, r) for m, r in matches if r.layers is None or int(m["layer"]) in r.layers]
        if not matches:
            problems.append(f"unknown name {name}")
        elif len(matches) > 1 and not all(rule.part for _, rule in matches):
            problems.append(f"ambiguous name {name}")
        else:
            for match, rule in matches:
                if rule.path is None:
                    continue
                place: Piece | int | None = rule.piece
                if rule.layers is not None:
                    place = rule.layers.index(int(match["layer"]))
                if (rule.path, place) in found:
                    problems.append(f"doubled name {name}: {rule.path} was filled before")
                found.setdefault((rule.path, place), (name, rule))
    return found, problems


def convert(
    weights: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    like: dict,
    dtype=np.float32,
    shardings: dict | jax.sharding.Sharding | None = None,
) -> dict:
    """Convert named weights to a tree with the structure and shapes of `like`.

    Args:
        weights: named arrays; a lazy mapping is read once, one tensor at a time.
        rules: the conversion table.
        like: a tree of arrays or ShapeDtypeStructs.
        dtype: the dtype of every leaf.
        shardings: a tree of shardings like `like`, or one sharding for all; each finished leaf is
            put there before the next is converted. None: leaves are numpy arrays.

    Raises:
        ValueError: weights do not fit; the message lists every unknown, doubled, missing,
            mis-shaped or non-finite name, and those of numbers that are no floats.
    """
    found, problems = _resolve(list(weights), rules)
    wanted = traverse_util.flatten_dict(like, sep="/")
    one = isinstance(shardings, jax.sharding.Sharding)
    places = dict.fromkeys(wanted, shardings) if one else shardings or {}
    places = traverse_util.flatten_dict(places, sep="/")
    parts_of: dict[str, dict] = {}
    for (path, place), source in found.items():
        parts_of.setdefault(path, {})[place] = source
    for path, leaf in wanted.items():
        parts = parts_of.get(path, {})
        if not _is_whole(list(parts), leaf.shape):
            problems.append(f"missing weights for {path} ({len(parts)} of its parts found)")
    problems += [f"no leaf {path}" for path in parts_of if path not in wanted]
    filled = {}
    for path, leaf in wanted.items() if not problems else ():
        array, wrong = _leaf(weights, parts_of[path], path, leaf.shape, dtype)
        problems += wrong
        if not problems:
            filled[path] = jax.device_put(array, places[path]) if places else array
        else:
            filled.clear()  # from here on only the list of problems matters
    if problems:
        raise ValueError("weights do not fit:\n  " + "\n  ".join(problems))
    return traverse_util.unflatten_dict(filled, sep="/")


def _is_whole(places: list[Piece | int | None], shape: tuple[int, ...]) -> bool:
    """Check whether a leaf's layers or pieces are all there."""
    if not places or None in places:
        return bool(places)
    pieces = [place for place in places if isinstance(place, Piece)]
    if not pieces:
        return len(places) == shape[0]
    return sum(piece.stop - piece.start for piece in pieces) == shape[pieces[0].axis]


def _leaf(weights, parts: dict, path: str, shape, dtype) -> tuple[np.ndarray, list[str]]:
    """Assemble a leaf from its named parts, and list the problems with them."""
    array, problems = np.empty(shape, dtype), []
    for key, (name, rule) in parts.items():
        index = () if key is None else key.place if isinstance(key, Piece) else (key,)
        stored = np.asarray(weights[name])
        if not jnp.issubdtype(stored.dtype, jnp.floating):
            problems.append(f"{name} is stored as {stored.dtype}, not as floating-point numbers")
            continue
        part = rule.transform(stored)
        place = array[(*index, ...)]  # a view, whatever its rank
        if part.shape != place.shape:
            problems.append(f"{name} makes {path} of shape {part.shape}, expected {place.shape}")
            continue
        with np.errstate(over="ignore"):
            place[...] = part
        if not np.isfinite(place.astype(np.float32, copy=False)).all():
            problems.append(f"non-finite values in {name}, as {np.dtype(dtype).name}")
    return array, problems
