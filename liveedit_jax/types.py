"""Every pytree that crosses a file, and the glossary of letters that all shapes are written in.

B queries · N new edits · T tokens · P vision tokens · Q prompt tokens · A answer tokens · D decoder
width · M module width · E learned queries per extractor · H = E*M key width · R expert rank ·
C repository capacity · K experts applied per query · V vocabulary · S image side in pixels.
"""

from __future__ import annotations

from enum import IntEnum

import flax.struct
from jaxtyping import Array, Float, Int, Shaped, UInt8

Axis = str | tuple[str, ...]  # of a mesh: one, or several taken together


class Role(IntEnum):
    """What a token is; every mask derives from it. Stored as int8[B, T]."""

    PAD = 0
    PRE = 1  # before the image: BOS, a chat template's head
    VISION = 2
    PROMPT = 3  # all text after the image up to the last prompt token
    ANSWER = 4


@flax.struct.dataclass
class Batch:
    """Right-padded token sequences with at most one image each.

    A text-only row has no VISION role and its image is ignored (zeros). Pictures in tiles are
    [B, N, S, S, 3], and `place` says which feature row a VISION token is (None: the next one).
    `position` and `segment` default to None: positions are then 0..n-1 over the non-pad tokens
    and every row is one segment.
    Segment 0 is seen by every later token, segment k >= 1 only by itself (several questions about
    one image packed into one row).
    """

    token: Int[Array, "B T"]  # int32; value under VISION and PAD is ignored
    role: Int[Array, "B T"]  # int8, a Role
    image: Float[Array, "B S S 3"]  # float32, normalised
    position: Int[Array, "B T"] | None = None
    segment: Int[Array, "B T"] | None = None
    place: Int[Array, "B T"] | None = None


@flax.struct.dataclass
class Expert:
    """N generated edits: routing keys and low-rank bodies (paper equations 1 and 3)."""

    text_key: Float[Array, "N H"]
    vision_key: Float[Array, "N H"]
    down: Float[Array, "N R D"]  # the paper's U
    up: Float[Array, "N R D"]  # the paper's V


@flax.struct.dataclass
class Query:
    """B routing queries (paper equation 4)."""

    text: Float[Array, "B H"]
    vision: Float[Array, "B H"]
    threshold: Float[Array, " B"]  # sim(vision, sentinel); +inf where there is no image


@flax.struct.dataclass
class Rows:
    """C stored vectors of width W (editor/rows.py says how).

    float32; the bits of bfloat16 (uint16) with a scale; or int8 with G steps and a scale.
    """

    value: Shaped[Array, "C ... W"]
    step: UInt8[Array, "C ... G"] | None = None
    scale: Float[Array, "C ..."] | None = None


@flax.struct.dataclass
class Repository:
    """The editing state E_t: rows on an edit clock, all leaves [C, ...] or scalar.

    Row c is alive at time t iff born[c] <= t < died[c]. A free row has born = int32 max.
    """

    text_key: Rows  # [C, H]
    vision_key: Rows  # [C, H]
    down: Rows  # [C, R, D]
    up: Rows  # [C, R, D]
    edit_id: Int[Array, " C"]
    born: Int[Array, " C"]
    died: Int[Array, " C"]
    clock: Int[Array, ""]  # operations done so far; edit i of a fresh repository is born at i + 1
    used_n: Int[Array, ""]  # rows 0..used_n-1 have been written; the next edit goes to row used_n


@flax.struct.dataclass
class Route:
    """Which experts a query uses: the top K of all hits, weights normalised over ALL hits."""

    slot: Int[Array, "B K"]  # repository row; meaningless where weight is 0
    weight: Float[Array, "B K"]
    hit_n: Int[Array, " B"]  # rows that passed hard routing
    kept: Float[Array, " B"]  # share of the total weight inside the top K (1 where nothing is hit)


@flax.struct.dataclass
class Margins:
    """How far K experts are from firing on each of B queries."""

    slot: Int[Array, "B K"]  # repository row
    image: Float[Array, "B K"]  # its score over the threshold: hit above 0; -inf: not alive
    text: Float[Array, "B K"]  # its score; a hit's weight is at most the sigmoid of it
