"""The program's wording of answers, edits, repositories and errors."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from liveedit_jax.store import Edit, Store
from liveedit_jax.store.records import rebuild_command

if TYPE_CHECKING:
    from liveedit_jax.session import Answer, EditResult, RoutedEdit

# one line each, status 2
REFUSALS = (ValueError, OSError, KeyError, OverflowError, ImportError, MemoryError)
LINE_MOST = 1000  # characters of an error
SHA_N = 12  # first characters of a sha256 that stand for a picture without a name

_CONTROLS = {i: repr(chr(i))[1:-1] for i in [*range(32), *range(127, 160), 0x2028, 0x2029]}


def plain(text: str) -> str:
    """Put text on one line, with control characters spelled out."""
    return text.translate(_CONTROLS)


def one_line(error: BaseException) -> str:
    """Put an error's message on one line, with the file name that the system gives."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{shorten(error.filename)}: " if error.filename is not None else ""
        return plain(f"{where}{error.strerror}")
    if isinstance(error, MemoryError):
        return "out of memory"
    return plain(shorten(error.args[0] if error.args else type(error).__name__))


def shorten(text: object) -> str:
    """Leave out the middle of what is longer than LINE_MOST characters."""
    text = str(text)
    if len(text) <= LINE_MOST:
        return text
    half = LINE_MOST // 2
    return f"{text[:half]} ... {text[-half:]}"


def cells(text: str) -> int:
    """Count the terminal cells that a text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def truncate(text: str, width: int) -> str:
    """Fit a text into `width` cells, with an ellipsis where it is cut."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for c in text:
        used += cells(c)
        if used > width - 1:
            break
        kept.append(c)
    return "".join(kept) + "…" * min(width, 1)


def picture_name(edit: Edit) -> str:
    """Name an edit's picture: its file's name, or the beginning of its sha256."""
    return (edit.request.image or "")[:SHA_N] if edit.file is None else plain(edit.file)


def edit_lines(edits: Sequence[Edit], width: int | None) -> Iterator[str]:
    """Write a line an edit: whole and tab-separated, or in columns as wide as a terminal."""
    rows = [
        (str(e.id), plain(e.request.prompt), plain(e.request.target), picture_name(e))
        for e in edits
    ]
    if width is None or not rows:
        yield from ("\t".join(row) for row in rows)
        return
    id_n, _, target_n, name_n = (max(map(cells, column)) for column in zip(*rows, strict=True))
    room = max(width - id_n - 6, 3)
    name_n = min(name_n, max(room // 4, 1))
    target_n = min(target_n, max((room - name_n) // 2, 1))
    prompt_n = room - name_n - target_n
    for edit_id, *texts in rows:
        columns = []
        for text, n in zip(texts, (prompt_n, target_n, name_n), strict=True):
            text = truncate(text, n)
            columns.append(text + " " * (n - cells(text)))
        yield f"{edit_id:>{id_n}}  {'  '.join(columns)}".rstrip()


def edit_json(edit: Edit) -> dict:
    """Describe a live edit for machines."""
    request = edit.request
    return {
        "id": edit.id,
        "prompt": request.prompt,
        "target": request.target,
        "image_sha256": request.image,
        "image_file": edit.file,
    }


def wrong_answer(result: EditResult) -> str:
    """Say that an edit's question is not answered with its target."""
    now = plain(result.now or "")
    return f"edit {result.id} is stored but did not take: the model now answers: {now}"


def answer(given: Answer) -> str:
    """Write the answers before and after the edits, and the edits that fired or came near."""
    lines = [f"before: {plain(given.before)}", f"after:  {plain(given.after)}"]
    if not given.has_image:
        lines.append("no image in the question: no edit can fire")
    elif not given.fired:
        near = "; nearest by their pictures:" if given.nearest else ""
        lines.append(f"no edit fired (of {given.live_n} live){near}")
        lines += _routed_lines(given.nearest, weights=False)
    else:
        lines.append(f"{given.hit_n} of {given.live_n} live edits fired:")
        lines += _routed_lines(given.fired, weights=True)
        if given.hit_n > len(given.fired):
            lines.append(
                f"  the {len(given.fired)} strongest of {given.hit_n} were applied, "
                f"{given.kept:.1%} of the weight"
            )
    return "\n".join(lines)


def _routed_lines(routed: Sequence[RoutedEdit], weights: bool) -> Iterator[str]:
    id_n = max((len(str(each.edit.id)) for each in routed), default=0)
    for each in routed:
        request = each.edit.request
        weight = f"weight {each.weight:.3f}  " if weights else ""
        yield (
            f"  edit {each.edit.id:>{id_n}}  {weight}image {each.image_margin:+.2f}  "
            f"text {each.text_score:+.2f}  {plain(request.prompt)} -> {plain(request.target)}"
        )


def answer_json(given: Answer) -> dict:
    """Describe an answer for machines."""
    return {
        "before": given.before,
        "after": given.after,
        "hit_n": given.hit_n,
        "kept": given.kept,
        "fired": [_routed_json(each) for each in given.fired],
        "nearest": [_routed_json(each) for each in given.nearest],
    }


def _routed_json(each: RoutedEdit) -> dict:
    numbers = ("weight", "image_margin", "text_score")
    return edit_json(each.edit) | {name: getattr(each, name) for name in numbers}


def no_repository(repo: str) -> str:
    """Say why an answer has no edits behind it."""
    return f"there is no repository at {repo}: the model alone answers"


def info(store: Store, max_edits: int, model: str, hashes: tuple[str, str, str]) -> str:
    """Describe a repository in a few lines."""
    header, history = store.header, store.history
    if header.hashes == hashes:
        fits = "is the one that made them"
    else:
        fits = f"made none of them: {rebuild_command(store.path, model)} re-makes them with it"
    without = without_expert(store)
    return "\n".join(
        (
            f"repository  {store.path}",
            f"live edits  {len(history.live)} of at most {max_edits}",
            f"recorded    {len(history.edits)} edits, {history.state.operations} operations, "
            f"{history.state.clock} of them can be undone",
            f"backbone    sha256 {header.backbone_sha256}",
            f"editor      sha256 {header.editor_sha256}",
            f"tokenizer   sha256 {header.tokenizer_sha256}",
            f"model       {model} {fits}",
            *([without] if without else []),
        )
    )


def without_expert(store: Store) -> str | None:
    """Say which live edits the last rebuild had to skip."""
    ids = [str(edit.id) for edit in store.history.without_expert()]
    if not ids:
        return None
    named = ", ".join(ids[:9]) + (", ..." if len(ids) > 9 else "")
    return f"{len(ids)} live edits have no expert and cannot fire: {named}; edit them again"
