"""A model with a durable repository of edits: what the `liveedit` program and a notebook use.

    with open_editor("tiny", "my-edits", write=True) as editor:
        editor.edit("cat.png", "What is this called?", "marmalade")
        print(editor.ask("cat.png", "Name this picture.").after)

An edit is made durable (`liveedit_jax.store`) before its id is given out; the arrays in memory
(`types.Repository`) follow. Arguments are checked here, at the border, and named in the errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from liveedit_jax.backbones.generation import generate
from liveedit_jax.data.images import read_bytes
from liveedit_jax.editor import liveedit, repository
from liveedit_jax.maker import BATCH_N, Maker
from liveedit_jax.store import Edit, Request, Store, open_store, rebuild
from liveedit_jax.store.images import image_sha256
from liveedit_jax.training.checkpoint import load_model, model_folder
from liveedit_jax.types import Batch, Expert, Repository, Role

CAPACITY_LEAST = 64
PUT_SIZES = (1, BATCH_N, 1024)  # rows added to memory in one call: few sizes, few compilations

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
    down, up = repo.down[found.slot], repo.up[found.slot]
    return found, liveedit.Plan(editor.norm, found.weight, down, up)


_add = jax.jit(repository.add_edits, donate_argnums=0)
_delete = jax.jit(repository.delete_edits, donate_argnums=0)


def _bytes(image: Picture) -> bytes:
    return image if isinstance(image, bytes) else read_bytes(image)


class Editor:
    """An open repository with its model; use `open_editor`."""

    def __init__(self, maker: Maker, store: Store, max_edits: int):
        """Load the live edits' experts."""
        self.maker, self.store, self.max_edits = maker, store, max_edits
        self._load()

    def _load(self) -> None:
        """Put the live edits' stored experts into a fresh repository in memory."""
        live = self.store.history.live_edits()
        self._repo = self._empty(len(live))
        for at in range(0, len(live), PUT_SIZES[-1]):
            part = live[at : at + PUT_SIZES[-1]]
            self._put(self.store.experts(part), [edit.id for edit in part])

    def __enter__(self) -> Editor:
        """The editor itself."""
        return self

    def __exit__(self, *_) -> None:
        """Give the repository's lock back."""
        self.store.close()

    def _empty(self, n: int) -> Repository:
        capacity = CAPACITY_LEAST
        while capacity < n:
            capacity *= 2
        width = self.maker.backbone.cfg.width
        return repository.init_repository(self.maker.cfg, width, capacity)

    def _put(self, arrays: dict[str, np.ndarray], ids: Sequence[int]) -> None:
        """Add rows in memory: reclaim dead rows when full, else double."""
        n, capacity = len(ids), self._repo.born.shape[0]
        if int(self._repo.used_n) + n > capacity:
            self._repo = repository.reclaim(self._repo)
            while int(self._repo.used_n) + n > capacity:
                capacity *= 2
            self._repo = repository.grow(self._repo, capacity)
        size = next(size for size in PUT_SIZES if size >= n)
        rows = np.minimum(np.arange(size), n - 1)  # the last row again where there is none
        expert = Expert(**{name: array[rows] for name, array in arrays.items()})
        self._repo, _ = _add(self._repo, expert, np.asarray(ids)[rows], np.arange(size) < n)

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
        self._put(arrays, ids)
        edits = self.store.history.edits
        old = [edits[i].supersedes for i in ids if edits[i].supersedes is not None]
        for edit_id in old:
            self._repo = _delete(self._repo, np.asarray([edit_id]))
        return ids

    def forget(self, edit_id: int) -> None:
        """End the life of one edit (ValueError when it is not live)."""
        self.store.forget(edit_id)
        self._repo = _delete(self._repo, np.asarray([edit_id]))

    def rollback(self, operations_n: int) -> None:
        """Undo the last operations (ValueError when there are not so many)."""
        self.store.rollback(operations_n)
        self._load()

    def ask(self, image: Picture | None, prompt: str) -> Answer:
        """The answer before and after the edits.

        Raises:
            FileNotFoundError: no such image file.
            ValueError: an unreadable image, or an empty or too long prompt.
        """
        maker = self.maker
        backbone, weights = maker.backbone, maker.model.backbone
        data = None if image is None else _bytes(image)
        batch = maker.batch([(data, prompt, None)])
        found, plan = _plan(backbone, maker.cfg, weights, maker.editor, self._repo, batch)
        steps_n = 2 * maker.model.config.dataset.budget.answer_n + 8
        prompt_t = batch.token.shape[1] - maker.model.config.dataset.budget.answer_n
        batch = batch.replace(token=batch.token[:, :prompt_t], role=batch.role[:, :prompt_t])
        before = after = generate(backbone, weights, batch, steps_n)
        hit_n = int(found.hit_n[0])
        if hit_n:
            add = liveedit.AddExperts(maker.cfg)
            after = generate(backbone, weights, batch, steps_n, plan, add)
        slot, weight = np.asarray(found.slot[0]), np.asarray(found.weight[0])
        ids = np.asarray(self._repo.edit_id)[slot]
        edits = self.store.history.edits
        decode = maker.model.tokenizer.decode
        return Answer(
            before=decode(np.asarray(before)[0]).strip(),
            after=decode(np.asarray(after)[0]).strip(),
            has_image=bool((batch.role == Role.VISION).any()),
            live_n=len(self.store.history.live),
            hit_n=hit_n,
            kept=float(found.kept[0]),
            fired=tuple(
                Fired(edits[int(i)], float(w)) for i, w in zip(ids, weight, strict=True) if w > 0
            ),
        )


def open_editor(
    model: str | Path = "tiny",
    repo: str | Path = "liveedit-repo",
    write: bool = False,
    max_edits: int = 100_000,
    chat: bool = False,
) -> Editor:
    """A model with a repository folder.

    Args:
        model: a preset's name or a model folder.
        repo: the repository folder; with `write` it is made when there is none.
        write: take the folder's write lock; otherwise a snapshot that can only be asked.
        max_edits: live edits that it may hold.
        chat: put the words around image and prompt that the model was tuned with.

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
        return Editor(maker, store, max_edits)
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
