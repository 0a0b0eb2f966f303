"""A model with a durable repository of edits: what the `liveedit` program and a notebook use.

    with open_editor("tiny", "my-edits", write=True) as editor:
        print(editor.edit("cat.png", "What is this called?", "marmalade").now)
        print(editor.ask("cat.png", "Name this picture.").after)

An edit is made durable (`liveedit_jax.store`) before its id is given out; the arrays in memory
(`types.Repository`) follow. Arguments are checked here, at the border, and named in the errors.
Threads may share a session: one that asks sees the edits of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import REFINE_N, EditorConfig, Precision, StorageConfig
from liveedit_jax.data.tokenise import Example
from liveedit_jax.editor import liveedit
from liveedit_jax.editor.repository import F32
from liveedit_jax.editor.routing import gather_experts, margins, nearest, route, vision_scores
from liveedit_jax.live import LiveRepository
from liveedit_jax.session.encoder import ExpertEncoder
from liveedit_jax.session.images import Image, ImageFile, check_image, read_image
from liveedit_jax.session.model import BATCH_N, AnsweredQuestion, OpenModel, Question, open_model
from liveedit_jax.session.results import Answer, EditResult, RoutedEdit
from liveedit_jax.store import Edit, Request, Store, image_sha256, open_store, read_header
from liveedit_jax.types import Batch, Margins, Repository, Role, Route

NEAREST_N = 3  # edits that an answer names as the nearest by their pictures

EditRequest = tuple[Image, str, str]  # picture, prompt, target


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """A request whose picture has been read and decoded."""

    file: ImageFile
    example: Example
    stored: Request


@dataclass(frozen=True, eq=False)
class AddedEdits:
    """Edits that have just become durable, and the vision features of their pictures."""

    ids: tuple[int, ...]
    requests: tuple[ReadRequest, ...]
    features: Float[Array, "B P D"]


class _Routes(NamedTuple):
    """The experts that B questions are routed to, and those nearest to firing."""

    found: Route
    plan: liveedit.RoutedExperts
    fired: Margins  # of `found.slot`
    nearest: Margins


@partial(jax.jit, static_argnums=(0, 1))
def _route(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: dict,
    editor: liveedit.PreparedEditor,
    repo: Repository,
    batch: Batch,
    features: Float[Array, "B P D"],
) -> _Routes:
    hidden = backbone.lower_from_features(weights, batch, features)
    query = liveedit.queries_of_batch(cfg, backbone, weights, editor, batch, hidden)
    vision = vision_scores(cfg, repo, query)
    found = route(cfg, repo, query, vision=vision)
    return _Routes(
        found,
        liveedit.RoutedExperts(editor.norm, *gather_experts(repo, found)),
        margins(cfg, repo, query, jnp.asarray(found.slot), vision),
        nearest(cfg, repo, query, NEAREST_N, vision),
    )


@partial(jax.jit, static_argnums=(0, 1))
def _logits(
    backbone: Backbone,
    cfg: EditorConfig,
    weights: dict,
    editor: liveedit.PreparedEditor,
    repo: Repository,
    batch: Batch,
    features: Float[Array, "B P D"],
    position: Int[Array, "B A"],
) -> Float[Array, "B A V"]:
    hidden = backbone.lower_from_features(weights, batch, features)
    query = liveedit.queries_of_batch(cfg, backbone, weights, editor, batch, hidden)
    found = route(cfg, repo, query)
    changed = hidden + liveedit.residual(cfg, editor, repo, hidden, batch.role, found)
    hidden = backbone.keep_features(hidden, changed, batch.role)
    return backbone.upper(weights, hidden, batch, position)


class EditingSession:
    """An open model with its open repository; use `open_editor`.

    Pictures are image files' names or their bytes (`session.images.Image`).
    """

    def __init__(
        self, encoder: ExpertEncoder, store: Store, max_edits: int, storage: StorageConfig
    ):
        """Load the live edits' experts."""
        self.model, self.encoder = encoder.model, encoder
        self.store, self.max_edits = store, max_edits
        self.live = LiveRepository(store, encoder.cfg, encoder.model.backbone.cfg.width, storage)

    def __enter__(self) -> EditingSession:
        """Give the session itself."""
        return self

    def __exit__(self, *_) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the repository; every edit was durable before."""
        self.store.close()

    def refresh(self) -> None:
        """Follow what other processes have done since; this costs the edits that changed alone."""
        self.live.follow()

    def check(self, image: Image, prompt: str, target: str) -> None:
        """Refuse a request that cannot be stored.

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable picture, an empty text, or one longer than the budget.
        """
        self.read(image, prompt, target)

    def find(self, image: Image, prompt: str, target: str) -> int | None:
        """Find the id of the live edit that says exactly this, if there is one."""
        return self.store.find(Request(image_sha256(read_image(image).data), prompt, target))

    def edits(self) -> list[Edit]:
        """List the live edits, oldest first."""
        return self.store.history.live_edits()

    def edit(self, image: Image, prompt: str, target: str, check: bool = True) -> EditResult:
        """Teach one answer; it is durable when this returns.

        A later edit of the same picture and prompt supersedes the earlier one.

        Args:
            image: the picture.
            prompt: the question about it.
            target: the answer.
            check: ask the question back (a generation); False: `now` and `took` are None.

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable picture, an empty or too long text, or a repository that is
                open for reading only.
            OverflowError: the repository is full.
        """
        return self.edit_many([(image, prompt, target)], check)[0]

    def edit_many(
        self,
        requests: Sequence[EditRequest],
        check: bool = True,
        tick: Callable[[int], Any] = lambda n: None,
    ) -> list[EditResult]:
        """Teach answers, several at a time.

        All texts and files' names are looked at before the first edit is stored; pictures are
        decoded as they are needed.

        Args:
            requests: pictures, prompts and targets.
            check: ask their questions back; arguments and errors as `edit`.
            tick: hears how many more are durable.

        Raises:
            FileNotFoundError, ValueError: nothing is stored, or, where a picture is unreadable,
                only batches of requests before it.
            OverflowError: the repository is full; those that fitted are stored.
        """
        requests = list(requests)
        results: list[EditResult] = []
        for image, prompt, target in requests:
            check_image(image)
            _check_strings(prompt, target)
            self.model.check(prompt, target)
        for at in range(0, len(requests), BATCH_N):
            waiting = [self.read(*request) for request in requests[at : at + BATCH_N]]
            while waiting:
                added = self.add(waiting)
                tick(len(added.ids))
                waiting = waiting[len(added.ids) :]
                results += self.results(added) if check else map(EditResult, added.ids)
        return results

    def read(self, image: Image, prompt: str, target: str) -> ReadRequest:
        """Read a request, and decode its picture; errors as `check`."""
        _check_strings(prompt, target)
        file = read_image(image)
        stored = Request(image_sha256(file.data), prompt, target)
        return ReadRequest(file, self.model.example(file, prompt, target), stored)

    def add(self, requests: Sequence[ReadRequest]) -> AddedEdits:
        """Store the first of up to BATCH_N requests: all that the repository has room for.

        They are durable when this returns.

        Raises:
            ValueError: the repository is open for reading only.
            OverflowError: there is no room for the first.
        """
        if not self.store.writable:
            raise ValueError(f"{self.store.path} is open for reading only: open it with write=True")
        n = self.store.fitting_n([request.stored for request in requests], self.max_edits)
        requests = tuple(requests[:n])
        rows_n = 1 if n == 1 else BATCH_N
        batch = self.model.batch([request.example for request in requests], rows_n)
        features = self.model.features(batch)
        arrays = self.encoder.experts(batch, features, n)
        stored, files = [r.stored for r in requests], [r.file for r in requests]
        pictures, names = [file.data for file in files], [file.name for file in files]
        with self.store.lock:
            ids = self.store.add_edits(stored, arrays, pictures, names)
            self.live.follow()
        return AddedEdits(tuple(ids), requests, features)

    def results(self, added: AddedEdits) -> list[EditResult]:
        """Ask the questions of edits that have just been added."""
        features = added.features
        batch = self.model.prompts([r.example for r in added.requests], len(features))
        routes = self._route(batch, features)
        said = self.model.generate(batch, features, None, routes.plan, self._add_experts)
        return [
            EditResult(edit_id, now, now == request.stored.target.strip())
            for edit_id, now, request in zip(added.ids, said, added.requests, strict=False)
        ]

    def forget(self, edit_id: int) -> None:
        """End the life of one edit (ValueError when it is not live)."""
        with self.store.lock:
            self.store.forget(edit_id)
            self.live.follow()

    def rollback(self, operations_n: int) -> None:
        """Undo the last operations (ValueError when there are not so many)."""
        with self.store.lock:
            self.store.rollback(operations_n)
            self.live.follow()

    def purge(self, edit_id: int) -> bool:
        """Erase an edit for good, live or not, with its request.

        Returns:
            Whether its picture stays, because another edit has it.

        Raises:
            ValueError: there is no such edit.
        """
        with self.store.lock:
            kept = self.store.purge(edit_id)
            self.live.follow()
        return kept

    def ask(self, image: Image | None, prompt: str, tokens_n: int | None = None) -> Answer:
        """Answer a question without and with the edits.

        Args:
            image: a picture; None: the question has none, and no edit can fire.
            prompt: the question.
            tokens_n: the most tokens of an answer (None, and at most: twice a target's, and 8).

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable picture, or an empty or too long prompt.
        """
        return next(self.ask_many([(image, prompt)], tokens_n))

    def ask_many(
        self, questions: Sequence[Question], tokens_n: int | None = None
    ) -> Iterator[Answer]:
        """Answer questions in their order, several at a time; arguments and errors as `ask`.

        An error comes when its question is reached; the questions before are answered.
        """
        for n, batch in self.model.question_batches(list(questions)):
            yield from self._answers(batch, n, tokens_n)

    def logits(self, rows: Sequence[AnsweredQuestion]) -> list[Float[np.ndarray, "A V"]]:
        """Compute the edited model's logits; arguments, result and errors as `OpenModel.logits`."""
        found, model = [], self.model
        fixed = model.backbone, self.encoder.cfg, model.weights, self.encoder.editor
        for batch, position, length in model.answer_batches(list(rows)):
            features = model.features(batch)
            with self.store.lock:
                made = _logits(*fixed, self.live.repo, batch, features, position)
            made = np.asarray(made)
            found += [made[b, :answer_n].copy() for b, answer_n in enumerate(length)]
        return found

    @property
    def _add_experts(self) -> liveedit.AddExperts:
        return liveedit.AddExperts(self.encoder.cfg)

    def _route(self, batch: Batch, features: Float[Array, "B P D"]) -> _Routes:
        model, encoder = self.model, self.encoder
        fixed = model.backbone, encoder.cfg, model.weights, encoder.editor
        with self.store.lock:  # an edit writes into the arrays
            return _route(*fixed, self.live.repo, batch, features)

    def _answers(self, batch: Batch, n: int, tokens_n: int | None) -> list[Answer]:
        """Answer the first `n` rows of a batch."""
        features = self.model.features(batch)
        with self.store.lock:  # routes and edits of one moment
            routes = self._route(batch, features)
            fired, close = self._routed_edits(routes)
            live_n = len(self.store.history.live)
        before = after = self.model.generate(batch, features, tokens_n)
        hit_n, kept = np.asarray(routes.found.hit_n), np.asarray(routes.found.kept)
        if hit_n[:n].any():
            plan, add = routes.plan, self._add_experts
            after = self.model.generate(batch, features, tokens_n, plan, add)
        has_image = (batch.role == Role.VISION).any(1)
        return [
            Answer(
                before=before[b],
                after=after[b] if hit_n[b] else before[b],
                has_image=bool(has_image[b]),
                live_n=live_n,
                hit_n=int(hit_n[b]),
                kept=float(kept[b]),
                fired=tuple(fired[b]),
                nearest=tuple(close[b]),
            )
            for b in range(n)
        ]

    def _routed_edits(
        self, routes: _Routes
    ) -> tuple[list[list[RoutedEdit]], list[list[RoutedEdit]]]:
        """List, row by row, the edits that fired and those whose pictures come nearest."""
        edits, edit_id = self.store.history.edits, np.asarray(self.live.repo.edit_id)
        slot, weight = np.asarray(routes.found.slot), np.asarray(routes.found.weight)

        def listed(row: int, margins: Margins) -> list[RoutedEdit]:
            weights = dict(zip(slot[row].tolist(), weight[row].tolist(), strict=True))
            parts = (np.asarray(part)[row].tolist() for part in (margins.image, margins.text))
            at = np.asarray(margins.slot)[row].tolist()
            return [
                RoutedEdit(edits[int(edit_id[c])], weights.get(c, 0.0), image, text)
                for c, image, text in zip(at, *parts, strict=True)
                if np.isfinite(image)
            ]

        rows = range(len(slot))
        fired = [[e for e in listed(row, routes.fired) if e.weight > 0] for row in rows]
        return fired, [listed(row, routes.nearest) for row in rows]


def _check_strings(prompt: str, target: str) -> None:
    if not isinstance(prompt, str) or not isinstance(target, str):
        raise TypeError("prompt and target of an edit are strings")
    try:
        (prompt + target).encode()
    except UnicodeEncodeError:
        raise ValueError("the prompt or the target is not valid Unicode") from None


def open_editor(
    model: OpenModel | str | Path = "tiny",
    repo: str | Path = "liveedit-repo",
    write: bool = False,
    max_edits: int = 100_000,
    chat: bool | None = None,
    storage: StorageConfig = F32,
    disk: Precision = Precision.F32,
    refine_n: int = REFINE_N,
) -> EditingSession:
    """Open a model with a repository of edits.

    Args:
        model: a model of `open_model`, a preset's name or a model folder.
        repo: the repository's file, used as it is given; with `write` it is made when there is
            none.
        write: it may be changed; otherwise it can only be asked. Several sessions may write in
            turn, and each follows the others.
        max_edits: live edits that it may hold.
        chat: apply the model's chat template; None: as the model was opened.
        storage: how experts are kept in memory.
        disk: how a new repository keeps them on disk, in float32 or bfloat16.
        refine_n: the most steps of gradient descent on an edit that does not take as it is
            generated (`editor/refine.py`); 0: none.

    Raises:
        FileNotFoundError: no model, or no repository to read.
        BlockingIOError: another process has been writing to the repository for too long.
        ValueError: a damaged model or repository, one made with another model, a model without
            an editor, or none that has a chat template.
    """
    if not write:
        read_header(repo)  # a missing repository is refused before a model is loaded
    if not isinstance(model, OpenModel):
        model = open_model(model)
    encoder = ExpertEncoder(model if chat is None else model.with_chat(chat), refine_n)
    header = replace(encoder.header, dtype=disk.value)
    store = open_store(repo, write=write, create=header if write else None)
    try:
        store.header.check_model(store.path, header.hashes, model.name)
        return EditingSession(encoder, store, max_edits, storage)
    except BaseException:
        store.close()
        raise
