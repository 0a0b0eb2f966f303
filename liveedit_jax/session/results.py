"""Results of a session: answers with the edits behind them, and whether an edit took."""

from __future__ import annotations

from dataclasses import dataclass

from liveedit_jax.store import Edit


@dataclass(frozen=True)
class RoutedEdit:
    """An edit beside a question, and how far it was from firing.

    It fires where its picture resembles the question's by more than the threshold. The weight then
    is its share among all that fired, times the sigmoid of the text score: near 0 where the prompts
    have little in common.
    """

    edit: Edit
    weight: float  # 0: it did not fire, or was not among the strongest
    image_margin: float  # over the threshold: it fires above 0
    text_score: float


@dataclass(frozen=True)
class Answer:
    """The answers without and with the edits, and the edits that fired (strongest first)."""

    before: str
    after: str
    has_image: bool
    live_n: int
    hit_n: int
    kept: float  # share of all hits' weight that the applied experts carry
    fired: tuple[RoutedEdit, ...]
    nearest: tuple[RoutedEdit, ...]  # by their pictures, fired or not; none without a picture


@dataclass(frozen=True)
class EditResult:
    """A stored edit, and what its own question is answered after it (None: not checked)."""

    id: int
    now: str | None = None
    took: bool | None = None  # `now` is the target
