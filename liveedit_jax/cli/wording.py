"""How the program words things: answers, edits, repositories, errors."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

_CONTROLS = {i: repr(chr(i))[1:-1] for i in [*range(32), *range(127, 160), 0x2028, 0x2029]}


def plain(text: str) -> str:
    """Text on one line, control characters spelled out."""
    return text.translate(_CONTROLS)


def one_line(error: BaseException) -> str:
    """An error's message on one line, file name included where the system names one."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return plain(f"{where}{error.strerror}")
    return plain(str(error.args[0] if error.args else type(error).__name__))


def cells(text: str) -> int:
    """Terminal cells that a text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def fit(text: str, width: int) -> str:
    """The text in at most `width` cells, with an ellipsis where it was cut."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for c in text:
        used += cells(c)
        if used > width - 1:
            break
        kept.append(c)
    return "".join(kept) + "…" * min(width, 1)


def edit_lines(edits: Sequence, width: int | None) -> Iterator[str]:
    """One line an edit: tab-separated and whole, or in columns fitted to a terminal's width."""
    rows = [(str(e.id), plain(e.request.prompt), plain(e.request.target)) for e in edits]
    if width is None:
        yield from ("\t".join(row) for row in rows)
        return
    id_n = max((len(row[0]) for row in rows), default=0)
    target_n = max((cells(row[2]) for row in rows), default=0)
    room = max(width - id_n - 4, 2)
    target_n = min(target_n, max(room // 2, 1))
    for edit_id, prompt, target in rows:
        prompt = fit(prompt, room - target_n)
        pad = " " * (room - target_n - cells(prompt))
        yield f"{edit_id:>{id_n}}  {prompt}{pad}  {fit(target, target_n)}"


def edit_json(edit) -> dict:
    """A live edit for machines."""
    request = edit.request
    return {
        "id": edit.id,
        "prompt": request.prompt,
        "target": request.target,
        "image_sha256": request.image,
    }


def answer(given) -> str:
    """An answer before and after the edits, and the edits that fired."""
    lines = [f"before: {plain(given.before)}", f"after:  {plain(given.after)}"]
    if not given.has_image:
        lines.append("no image in the question: no edit can fire")
    elif not given.fired:
        lines.append(f"no edit fired (of {given.live_n} live)")
    else:
        lines.append(f"{given.hit_n} of {given.live_n} live edits fired:")
        id_n = max(len(str(f.edit.id)) for f in given.fired)
        for f in given.fired:
            prompt, target = plain(f.edit.request.prompt), plain(f.edit.request.target)
            lines.append(f"  edit {f.edit.id:>{id_n}}  weight {f.weight:.3f}  {prompt} -> {target}")
        if given.hit_n > len(given.fired):
            lines.append(
                f"  the {len(given.fired)} strongest of {given.hit_n} were applied, "
                f"{given.kept:.1%} of the weight"
            )
    return "\n".join(lines)


def answer_json(given) -> dict:
    """An answer for machines."""
    return {
        "before": given.before,
        "after": given.after,
        "hit_n": given.hit_n,
        "kept": given.kept,
        "fired": [edit_json(f.edit) | {"weight": f.weight} for f in given.fired],
    }


def info(store, max_edits: int, model: str, hashes: tuple[str, str]) -> str:
    """A repository in a few lines."""
    header, history = store.header, store.history
    same = (header.backbone_sha256, header.editor_sha256) == hashes
    fits = (
        "is the one that made them" if same else "made none of them: `liveedit rebuild` is needed"
    )
    return "\n".join(
        (
            f"repository  {store.folder}",
            f"live edits  {len(history.live)} of at most {max_edits}",
            f"recorded    {len(history.edits)} edits, {history.seq} operations, "
            f"{len(history.done)} of them can be undone",
            f"backbone    sha256 {header.backbone_sha256}",
            f"editor      sha256 {header.editor_sha256}",
            f"model       {model} {fits}",
        )
    )


def torn(store, write: bool) -> str:
    """What became of an unfinished record."""
    done = "was set aside beside the journal" if write else "is left out"
    return (
        f"the last record of {store.folder} is unfinished ({store.torn_n} bytes) and {done}; "
        f"the {store.history.seq} operations before it are whole"
    )


def dropped(editor, write: bool) -> list[str]:
    """What opening a repository left out, if anything."""
    return ([torn(editor.store, write)] if editor.store.torn_n else []) + editor.live.skipped
