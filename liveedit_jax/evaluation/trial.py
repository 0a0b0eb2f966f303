"""One editor of the comparison under evaluation: its edits one by one, its answers in batches.

Free generation is never run with edits. What it would say is known from one pass along the text it
is compared with (the target, or what the unedited model says): greedy decoding gives exactly that
text if every token of it, and its end, is the most likely one after those before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax import editors as compiled
from liveedit_jax.backbones import Backbone
from liveedit_jax.editors import Editor, at_layer
from liveedit_jax.evaluation import predict
from liveedit_jax.evaluation.layout import Rows, along, batches, make_rows, padded, pixels, take
from liveedit_jax.evaluation.predict import Subject
from liveedit_jax.evaluation.probes import Probe
from liveedit_jax.evaluation.timing import bytes_of

TIMED_N = 10


class Edits(NamedTuple):
    """A state, and how many edits it has taken of those that it has room for."""

    state: Any
    taken_n: int
    capacity: int


@dataclass(frozen=True, eq=False)
class Trial:
    """An editor on a model; `subject` is the unedited one, split where LiveEdit edits."""

    subject: Subject
    editor: Editor
    backbone: Backbone  # split where this editor acts
    params: dict  # {"backbone": ..., "editor": ...}
    seen: dict[bytes, np.ndarray]  # what the editor takes of pictures, by picture

    @classmethod
    def of(
        cls,
        subject: Subject,
        editor: Editor,
        trained: Any = None,
        seen: dict[bytes, np.ndarray] | None = None,
    ) -> Trial:
        """The trial of an editor, with its trained weights if it has some."""
        backbone, weights = at_layer(subject.backbone, subject.weights, editor.layer)
        return cls(
            subject,
            editor,
            backbone,
            {"backbone": weights, "editor": trained},
            {} if seen is None else seen,
        )

    @property
    def features(self) -> dict[bytes, np.ndarray]:
        """Vision features by picture: `seen`, where the editor takes just them."""
        return self.seen if type(self.editor).see is Editor.see else {}

    def _seen(self, probes: Sequence[Probe]) -> list[np.ndarray]:
        def look(pictures: np.ndarray) -> np.ndarray:
            return compiled.see(self.editor, self.backbone, self.params, pictures)

        return predict.seen(
            look, self.backbone.cfg, self.subject.shapes.batch_n, [p.image for p in probes],
            self.seen,
        )  # fmt: skip

    def encoded(self, rows: Rows, probes: Sequence[Probe], chosen: Sequence[int]):
        """(row numbers, T, batch, what no edit changes about them) for groups of chosen rows."""
        seen = self._seen([probes[i] for i in chosen])
        place = {int(i): n for n, i in enumerate(chosen)}
        for group, t in batches(rows, chosen, self.subject.shapes):
            at = padded(group, self.subject.shapes.batch_n)
            batch = take(rows, at, t)
            shown = np.stack([seen[place[int(i)]] for i in at])
            known = compiled.encode(self.editor, self.backbone, self.params, batch, shown)
            yield group, at, batch, known

    @property
    def together(self) -> int:
        """How many requests the editor takes at once."""
        return getattr(self.editor, "together", 1)

    def init(self, capacity: int) -> Edits:
        """No edits, with room for `capacity`, or for as many as fill the last batch."""
        capacity = -(-capacity // self.together) * self.together
        begun = compiled.init(self.editor, self.backbone, self.params, capacity)
        # edits happen in place, and not in the weights
        return Edits(jax.tree.map(jnp.array, begun), 0, capacity)

    def edited(
        self, edits: Edits, probes: Sequence[Probe], tick: Callable[[int], Any] = lambda n: None
    ) -> Edits:
        """With the edits of these probes, in their order; `tick` hears how many more are made.

        An editor that takes several at once (`together`) has them in rows of one length; in its
        last batch, rows without a request are all PAD. They take up room all the same.

        Raises:
            ValueError: there is no room for so many; nothing is edited.
        """
        together, shapes, state = self.together, self.subject.shapes, edits.state
        taken_n = edits.taken_n + -(-len(probes) // together) * together
        if taken_n > edits.capacity:
            raise ValueError(
                f"{len(probes)} edits more, in batches of {together}, are {taken_n}; "
                f"this state has room for {edits.capacity}: begin one with more"
            )
        rows = make_rows(self.subject.tokenizer, self.backbone.cfg, probes, shapes)
        if together > 1:
            shapes = replace(shapes, short_n=0)
        walked = replace(self, subject=replace(self.subject, shapes=shapes))
        found: dict[int, tuple] = {}
        for group, _, batch, known in walked.encoded(rows, probes, range(len(probes))):
            host = jax.tree.map(np.asarray, (known, batch))
            for b, i in enumerate(group):
                found[int(i)] = jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], host)
        for start in range(0, len(probes), together):
            own = [found.pop(i) for i in range(start, min(start + together, len(probes)))]
            n = len(own)
            own += [jax.tree.map(np.zeros_like, own[0])] * (together - n)
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *own)
            state = compiled.edit(self.editor, self.backbone, self.params, state, *joined)
            jax.block_until_ready(state)
            tick(n)
        return Edits(state, taken_n, edits.capacity)

    def answers(
        self, state: Any, rows: Rows, probes: Sequence[Probe], chosen: Sequence[int]
    ) -> np.ndarray:
        """The most likely token at every answer position (and for EOS) of chosen rows."""
        place = {int(i): n for n, i in enumerate(chosen)}
        out = np.zeros((len(chosen), rows.position.shape[1]), np.int32)
        for group, at, batch, known in self.encoded(rows, probes, chosen):
            ids = compiled.answers(
                self.editor, self.backbone, self.params, state, known, batch, rows.position[at]
            )
            out[[place[int(i)] for i in group]] = np.asarray(ids)[: len(group)]
        return out

    def along(
        self, state: Any, rows: Rows, probes: Sequence[Probe], paths: dict[int, list[int]]
    ) -> dict[int, list[int]]:
        """The most likely token after the prompt and each start of its row's path."""
        if not paths:
            return {}
        chosen = list(paths)
        longer = along(rows, chosen, [paths[i] for i in chosen], self.subject.shapes)
        shapes = replace(self.subject.shapes, short_n=0, long_n=longer.token.shape[1])
        walked = replace(self, subject=replace(self.subject, shapes=shapes))
        ids = walked.answers(state, longer, [probes[i] for i in chosen], range(len(chosen)))
        return {i: ids[n, : len(paths[i])].tolist() for n, i in enumerate(chosen)}

    def costs(self, before: Any, state: Any, probe: Probe, edits_n: int) -> dict[str, float]:
        """What edits cost: `edit_ms`, `query_ms`, `state_bytes`.

        Times are medians of the edit of `probe`, made in the state `before` it, and of its query in
        the state after it, from tokens and pixels; bytes are those of a state for just `edits_n`
        edits. (An edit that has been made already would take an editor that descends no step.)
        """
        cfg, shapes = self.backbone.cfg, self.subject.shapes
        rows = make_rows(self.subject.tokenizer, cfg, [probe], shapes)
        batch, shown = take(rows, np.asarray([0]), shapes.long_n), pixels(cfg, probe.image)[None]
        model = self.editor, self.backbone, self.params

        def known():
            return compiled.encode(*model, batch, compiled.see(*model, shown))

        def edit(own: Any):
            return compiled.edit(*model, own, known(), batch)

        def query(own: Any):
            return compiled.answers(*model, own, known(), batch, rows.position)

        def median_ms(run, state: Any) -> float:
            spent = []
            for _ in range(TIMED_N + 2):
                own = jax.block_until_ready(jax.tree.map(jnp.array, state))
                begin = time.perf_counter()
                jax.block_until_ready(run(own))
                spent.append(time.perf_counter() - begin)
            return 1e3 * float(np.median(spent[2:]))  # the first two warm up

        made = partial(self.editor.init, self.backbone, self.params, edits_n)
        return {
            "edit_ms": median_ms(edit, before),
            "query_ms": median_ms(query, state),
            "state_bytes": bytes_of(made),
        }
