"""A model with a durable repository of edits: what the `liveedit` program and a notebook use.

    with open_editor("tiny", "my-edits", write=True) as editor:
        editor.edit("cat.png", "What is this called?", "marmalade")
        print(editor.ask("cat.png", "Name this picture.").after)

An edit is made durable (`liveedit_jax.store`) before its id is given out; the arrays in memory
(`types.Repository`) follow. Arguments are checked here, at the border, and named in the errors.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from liveedit_jax.backbones.generation import generate
from liveedit_jax.config import StorageConfig
from liveedit_jax.data.images import read_bytes
from liveedit_jax.data.tokenise import round_up
from liveedit_jax.editor import liveedit
from liveedit_jax.editor.repository import F32
from liveedit_jax.editor.routing import experts_of
from liveedit_jax.live import LiveRepository
from liveedit_jax.model_io.model import load_model, model_folder
from liveedit_jax.session.encoder import BATCH_N, Maker
from liveedit_jax.store import Edit, Request, Store, open_store, rebuild
from liveedit_jax.store.images import image_sha256
from liveedit_jax.types import Batch, Repository, Role

SNAPSHOT_EVERY = 1_000  # operations after which closing writes a snapshot
LENGTH_STEP = 16  # of rows of questions that are asked together

Picture = str | Path | bytes


@dataclass(frozen=True)
class Fired:
    """An edit that answered, and its soft weight."""

    edit: Edit
    weight: float


@dataclass(frozen=True)
class Answer:
    """What the model says without and with the edits, and which of them fired (strongest first)."""

    before: str
    after: str
    has_image: bool
    live_n: int
    hit_n: int
    kept: float  # share of all hits' weight that the applied experts carry
    fired: tuple[Fired, ...]


@partial(jax.jit, static_argnums=(0, 1))
def _plan(backbone, cfg, weights, editor, repo: Repository, batch: Batch):
    _, found = liveedit.lower_and_route(cfg, backbone, weights, editor, repo, batch)
    return found, liveedit.Plan(editor.norm, *experts_of(repo, found))


@partial(jax.jit, static_argnums=0)
def _features(backbone, weights, image):
    return backbone.vision_features(weights, image)


def _bytes(image: Picture) -> bytes:
    return image if isinstance(image, bytes) else read_bytes(image)


class Editor:
    """An open repository with its model; use `open_editor`."""

    def __init__(self, maker: Maker, store: Store, max_edits: int, storage: StorageConfig):
        """Load the live edits' experts."""
        self.maker, self.store, self.max_edits = maker, store, max_edits
        self.live = LiveRepository(store, maker.cfg, maker.backbone.cfg.width, storage)

    def __enter__(self) -> Editor:
        """The editor itself."""
        return self

    def __exit__(self, *_) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give the repository's lock back; a writer leaves a snapshot after many operations."""
        live, store = self.live, self.store
        try:
            if store.writable and store.history.seq - live.snapshot_seq >= SNAPSHOT_EVERY:
                live.save()
        except OSError as error:
            warnings.warn(f"no snapshot was written ({error}); every edit is safe", stacklevel=2)
        finally:
            store.close()

    def check(self, image: Picture, prompt: str, target: str) -> None:
        """Refuse a request that cannot be stored.

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable image, an empty text, or one longer than the budget.
        """
        self.maker.batch([(_bytes(image), prompt, target)])

    def find(self, image: Picture, prompt: str, target: str) -> int | None:
        """The id of the live edit that says exactly this, if there is one."""
        return self.store.find(Request(image_sha256(_bytes(image)), prompt, target))

    def edit(self, image: Picture, prompt: str, target: str) -> int:
        """Teach one answer; returns its id once it is durable. Errors as `edit_many`."""
        return next(self.edit_many([(image, prompt, target)]))

    def edit_many(self, requests: Sequence[tuple[Picture, str, str]]) -> Iterator[int]:
        """Teach answers, giving each id once it is durable.

        A later edit of the same image and prompt supersedes the earlier one.

        Raises:
            FileNotFoundError, ValueError: as `check`; none of the requests is stored.
            OverflowError: the repository is full; the edits given before are stored.
        """
        rows = [(_bytes(image), prompt, target) for image, prompt, target in requests]
        for row in rows:
            self.check(*row)
        at = 0
        while at < len(rows):
            part = rows[at : at + BATCH_N]
            asked = [Request(image_sha256(image), p, t) for image, p, t in part]
            fit_n = self.store.fitting_n(asked, self.max_edits)
            yield from self._store(part[:fit_n], asked[:fit_n])
            at += fit_n

    def _store(self, rows, asked: Sequence[Request]) -> list[int]:
        arrays = self.maker.experts(rows)
        for image, _, _ in rows:
            self.store.add_image(image)
        ids = self.store.add_edits(asked, arrays)
        self.live.add(arrays, ids)
        return ids

    def forget(self, edit_id: int) -> None:
        """End the life of one edit (ValueError when it is not live)."""
        self.store.forget(edit_id)
        self.live.delete([edit_id])

    def rollback(self, operations_n: int) -> None:
        """Undo the last operations (ValueError when there are not so many)."""
        self.store.rollback(operations_n)
        self.live.load()

    def ask(self, image: Picture | None, prompt: str) -> Answer:
        """The answer before and after the edits.

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable image, or an empty or too long prompt.
        """
        return next(self.ask_many([(image, prompt)]))

    def ask_many(
        self, questions: Sequence[tuple[Picture | None, str]], tokens_n: int | None = None
    ) -> Iterator[Answer]:
        """Answer questions in their order, several at a time.

        Args:
            questions: images (None: a question without one) and prompts.
            tokens_n: an answer's most tokens (None, and at most: twice a target's, and 8).

        Raises:
            FileNotFoundError, ValueError: as `ask`; the questions before are answered.
        """
        answer_n = self.maker.model.config.dataset.budget.answer_n
        steps_n = min(tokens_n or 2 * answer_n + 8, 2 * answer_n + 8)
        for at in range(0, len(questions), BATCH_N):
            part = [
                (None if image is None else _bytes(image), prompt, None)
                for image, prompt in questions[at : at + BATCH_N]
            ]
            rows = part if len(questions) == 1 else part + part[-1:] * (BATCH_N - len(part))
            batch = self.maker.batch(rows)
            prompt_t = batch.token.shape[1] - answer_n
            if len(questions) > 1:  # no longer than they need; few lengths are compiled
                longest = int((batch.role != Role.PAD).sum(1).max())
                prompt_t = min(prompt_t, round_up(longest, LENGTH_STEP))
            batch = batch.replace(token=batch.token[:, :prompt_t], role=batch.role[:, :prompt_t])
            if batch.place is not None:
                batch = batch.replace(place=batch.place[:, :prompt_t])
            yield from self._answers(batch, len(part), steps_n)

    def _answers(self, batch: Batch, n: int, steps_n: int) -> list[Answer]:
        """Answers of the first `n` rows of a batch."""
        maker = self.maker
        backbone, weights = maker.backbone, maker.model.backbone
        found, plan = _plan(backbone, maker.cfg, weights, maker.editor, self.live.repo, batch)
        features = _features(backbone, weights, batch.image)
        before = after = generate(backbone, weights, batch, steps_n, features=features)
        if np.asarray(found.hit_n)[:n].any():
            add = liveedit.AddExperts(maker.cfg)
            after = generate(backbone, weights, batch, steps_n, plan, add, features=features)
        edit_ids = np.asarray(self.live.repo.edit_id)[np.asarray(found.slot)]
        weight, before, after = np.asarray(found.weight), np.asarray(before), np.asarray(after)
        edits, decode = self.store.history.edits, maker.model.tokenizer.decode
        return [
            Answer(
                before=decode(before[b]).strip(),
                after=decode((after if found.hit_n[b] else before)[b]).strip(),
                has_image=bool((batch.role[b] == Role.VISION).any()),
                live_n=len(self.store.history.live),
                hit_n=int(found.hit_n[b]),
                kept=float(found.kept[b]),
                fired=tuple(
                    Fired(edits[int(i)], float(w))
                    for i, w in zip(edit_ids[b], weight[b], strict=True)
                    if w > 0
                ),
            )
            for b in range(n)
        ]


def open_editor(
    model: str | Path = "tiny",
    repo: str | Path = "liveedit-repo",
    write: bool = False,
    max_edits: int = 100_000,
    chat: bool = False,
    storage: StorageConfig = F32,
) -> Editor:
    """A model with a repository folder.

    Args:
        model: a preset's name or a model folder.
        repo: the repository folder; with `write` it is made when there is none.
        write: take the folder's write lock; otherwise a snapshot that can only be asked.
        max_edits: live edits that it may hold.
        chat: put the words around image and prompt that the model was tuned with.
        storage: how experts are kept in memory; on disk they are float32.

    Raises:
        FileNotFoundError: no model, or no repository to read.
        BlockingIOError: another process is writing to the repository.
        ValueError: a damaged model or repository, one made with another model, or no template.
    """
    maker = Maker(load_model(model), chat)
    header = maker.header
    store = open_store(repo, write=write, create=header if write else None)
    try:
        store.header.check_model(store.folder, header.backbone_sha256, header.editor_sha256)
        return Editor(maker, store, max_edits, storage)
    except BaseException:
        store.close()
        raise


def model_hashes(model: str | Path) -> tuple[str, str]:
    """The sha256 of a model's backbone and editor, as its recipes state them.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a recipe is damaged.
    """
    found = []
    for part in ("backbone", "editor"):
        file = model_folder(model) / part / "recipe.json"
        if not file.is_file():
            raise FileNotFoundError(f"no model {str(model)!r}: {file} is missing")
        try:
            found.append(str(json.loads(file.read_bytes())["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged; restore it from version control") from error
    return found[0], found[1]


def rebuild_repository(repo: str | Path, model: str | Path = "tiny") -> int:
    """Re-make all experts of a repository with another model; returns how many.

    Raises:
        ValueError: a recorded request does not fit the model; the repository stays as it was.
    """
    maker = Maker(load_model(model))

    def make(edits: Sequence[Edit], image_of) -> dict[str, np.ndarray]:
        rows = [(image_of(e.request.image), e.request.prompt, e.request.target) for e in edits]
        return maker.experts(rows)

    return rebuild(repo, maker.header, make, BATCH_N)
