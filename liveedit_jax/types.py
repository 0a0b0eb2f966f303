"""The pytrees that modules pass to each other, and the letters that shapes are written in.

B queries · N new edits · T tokens · P vision tokens · Q prompt tokens · A answer tokens · D decoder
width · M module width · E learned queries per extractor · H = E*M key width · R expert rank ·
C repository capacity · K experts applied per query · V vocabulary · S image side in pixels.

`weights` are the frozen backbone's, `params` an editor's trained parameters. A function that needs
both in one tree takes `params = {"backbone": weights, "editor": params}`.
"""

from __future__ import annotations

from enum import IntEnum

import flax.struct
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

Axis = str | tuple[str, ...]  # one mesh axis, or several treated as one
AnyArray = Array | np.ndarray  # on a device, or on the host as numpy made it


class Role(IntEnum):
    """The part a token plays in its row; every mask derives from it. Stored as int8[B, T]."""

    PAD = 0
    PRE = 1  # up to the last image token, what is no text of the user's: BOS, templates, separators
    VISION = 2
    PROMPT = 3  # the user's text, and all others after the image up to the last prompt token
    ANSWER = 4


class Batch(flax.struct.PyTreeNode):
    """Right-padded token sequences, usually with one image each.

    A text-only row has no VISION token, and its image (zeros) is ignored; where no row has an
    image, `image` may be None. An image that is cut into N tiles is [N, S, S, 3] instead of
    [S, S, 3], and so are several images.

    Without `position`, the tokens that are not padding are numbered 0, 1, 2, ... Without `segment`,
    every row is one segment. Several questions about one image can be packed into a row: every
    token attends to segment 0, but segment k >= 1 is visible only to itself. `place` gives the
    index of each VISION token's feature; without it the features are used in order.
    """

    token: Int[AnyArray, "B T"]  # int32; value under VISION and PAD is ignored
    role: Int[AnyArray, "B T"]  # int8, a Role
    image: Float[AnyArray, "B S S 3"] | Float[AnyArray, "B N S S 3"] | None  # normalised
    position: Int[AnyArray, "B T"] | Int[AnyArray, "B T 3"] | None = None
    segment: Int[AnyArray, "B T"] | None = None
    place: Int[AnyArray, "B T"] | None = None


class Expert(flax.struct.PyTreeNode):
    """N experts generated from edits: low-rank bodies (paper equation 1), routing keys (3)."""

    text_key: Float[Array, "N H"]
    vision_key: Float[Array, "N H"]
    down: Float[Array, "N R D"]  # the paper's U
    up: Float[Array, "N R D"]  # the paper's V


class Query(flax.struct.PyTreeNode):
    """B routing queries (paper equation 4)."""

    text: Float[Array, "B H"]
    vision: Float[Array, "B H"]
    threshold: Float[Array, " B"]  # sim(vision, sentinel); +inf where there is no image
    # By how much the threshold grows each time that live edits are e times as many
    # (`editor/directions.py`); None, as in the paper: it does not depend on their number.
    growth: Float[Array, " B"] | None = None


class StoredRows(flax.struct.PyTreeNode):
    """C vectors of width W in a storage format (see `editor/rows.py`).

    `value` is float32, or uint16 (the bits of bfloat16) with a scale per vector, or int8 with a
    scale per vector and a step for each of its G groups of entries.
    """

    value: Shaped[Array, "C ... W"]
    step: UInt8[Array, "C ... G"] | None = None
    scale: Float[Array, "C ..."] | None = None


class Repository(flax.struct.PyTreeNode):
    """The expert repository E_t of the paper, in static arrays of C rows.

    The clock counts operations. Row c is alive at time t iff born[c] <= t < died[c]; a free row
    has born = int32 max.
    """

    text_key: StoredRows  # [C, H]
    vision_key: StoredRows  # [C, H]
    down: StoredRows  # [C, R, D]
    up: StoredRows  # [C, R, D]
    edit_id: Int[Array, " C"]
    born: Int[Array, " C"]
    died: Int[Array, " C"]
    clock: Int[Array, ""]  # operations so far: in a new repository, edit i is born at i + 1
    used_n: Int[Array, ""]  # rows 0..used_n-1 have been written; the next edit goes to row used_n


class Route(flax.struct.PyTreeNode):
    """The experts that B queries are routed to (paper equations 5 to 7).

    These are the K strongest hits of each query; weights are normalised over all its hits.
    """

    slot: Int[AnyArray, "B K"]  # repository row; meaningless where weight is 0
    weight: Float[AnyArray, "B K"]
    hit_n: Int[AnyArray, " B"]  # rows that pass hard routing
    kept: Float[AnyArray, " B"]  # share of the hits' weight that the top K have; 1 without hits


class Margins(flax.struct.PyTreeNode):
    """The distances of K experts from firing on each of B queries."""

    slot: Int[Array, "B K"]  # repository row
    image: Float[Array, "B K"]  # its score over the threshold: hit above 0; -inf: not alive
    text: Float[Array, "B K"]  # its score; a hit's weight is at most the sigmoid of it
