"""The program's verbs on an open model or repository, used once or line by line in the shell."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from liveedit_jax.cli import wording

if TYPE_CHECKING:
    from tqdm import tqdm

    from liveedit_jax.cli.requests import BadLine, RequestLine
    from liveedit_jax.session import EditingSession, ImageFile, OpenModel
    from liveedit_jax.store import Store


def note(text: str) -> None:
    """Say something beside the output."""
    print(f"liveedit: note: {text}", file=sys.stderr)


def read_requests(args: Namespace) -> list[RequestLine | BadLine]:
    """Read the requests of `edit`, before any model is loaded.

    Raises:
        FileNotFoundError, ValueError: they are not there, or the only one is bad.
    """
    from liveedit_jax.cli import requests

    one = (args.image, args.prompt, args.target)
    if args.file is not None:
        if any(part is not None for part in one):
            raise ValueError("give either --from or --image, --prompt and --target, not both")
        return requests.read_lines(Path(args.file))
    if any(part is None for part in one):
        raise ValueError("an edit needs --image, --prompt and --target (or --from FILE.jsonl)")
    return [requests.request_of(*one)]


def edit(editor: EditingSession, lines: Sequence[RequestLine | BadLine], args: Namespace) -> None:
    """Store requests: an id on stdout once it is durable, on stderr what did not take."""
    from tqdm import tqdm

    from liveedit_jax.cli.requests import store

    shown = args.file is not None and sys.stderr.isatty()
    with tqdm(total=len(lines), unit="edit", file=sys.stderr, disable=not shown) as bar:
        for result in store(editor, lines, args.file, args.check):
            if result.took is None:
                _tell_id(result.id, bar)
                bar.update()
            elif not result.took and editor.store.history.is_live(result.id):
                bar.write(f"liveedit: note: {wording.wrong_answer(result)}", file=sys.stderr)


def _tell_id(edit_id: int, bar: tqdm) -> None:
    try:
        bar.write(str(edit_id), file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        note("nobody reads the ids any more: stopped; the edits made so far are stored")
        raise


def read_question(args: Namespace) -> ImageFile | None:
    """Check a question's texts and read its picture, before any model is loaded.

    Raises:
        FileNotFoundError, ValueError: no such file, no image, or no prompt.
    """
    from liveedit_jax.cli import requests

    requests.check_text("prompt", args.prompt)
    return None if args.image is None else requests.read_picture(args.image)


def ask(editor: EditingSession, image: ImageFile | None, args: Namespace) -> None:
    """Print the answer without and with the edits."""
    answer = editor.ask(image, args.prompt)
    print(json.dumps(wording.answer_json(answer)) if args.json else wording.answer(answer))


def ask_model(model: OpenModel, image: ImageFile | None, args: Namespace) -> None:
    """Print the answer of a model where there is no repository, and say so."""
    answer = model.answer(image, args.prompt)
    if args.json:
        nothing = {"hit_n": 0, "kept": 1.0, "fired": [], "nearest": []}
        print(json.dumps({"before": answer, "after": answer, **nothing}))
        note(wording.no_repository(args.repo))
    else:
        print(f"answer: {wording.plain(answer)}\n{wording.no_repository(args.repo)}")


def list_edits(store: Store, args: Namespace) -> None:
    """Print the live edits, or write a page of them."""
    if args.html is not None:
        from liveedit_jax.cli.page import write_page

        write_page(store, Path(args.html))
        print(args.html)
        return
    edits = store.history.live_edits()
    if args.json:
        for each in edits:
            print(json.dumps(wording.edit_json(each)))
        return
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in wording.edit_lines(edits, width):
        print(line)


def forget(editor: EditingSession | Store, args: Namespace) -> None:
    """End the life of one edit."""
    editor.forget(args.id)
    print(f"forgot edit {args.id}")


def purge(editor: EditingSession | Store, args: Namespace) -> None:
    """Erase one edit for good."""
    kept = editor.purge(args.id)
    print(f"purged edit {args.id}" + ("; its picture stays, another edit has it" if kept else ""))


def rollback(editor: EditingSession | Store, args: Namespace) -> None:
    """Undo the last operations."""
    from liveedit_jax.store import Store

    editor.rollback(args.operations)
    store = editor if isinstance(editor, Store) else editor.store
    print(f"undid {args.operations} operations; {len(store.history.live)} edits live")


def info(store: Store, max_edits: int, model: str, hashes: tuple[str, str, str]) -> None:
    """Print what a repository holds and which model made it."""
    print(wording.info(store, max_edits, model, hashes))
