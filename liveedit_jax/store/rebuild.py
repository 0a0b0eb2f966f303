"""Re-making every expert from the recorded requests, under another model, all or nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from liveedit_jax.store.folder import (
    Header,
    create_generation,
    generation_folder,
    open_store,
    write_header,
)
from liveedit_jax.store.history import Edit
from liveedit_jax.store.segments import pack, write_rows

Make = Callable[[Sequence[Edit], Callable[[str], bytes]], dict[str, np.ndarray]]


def rebuild(folder: str | Path, header: Header, make: Make, batch_n: int) -> int:
    """Give a repository the experts of another model; ids, order and undo history stay.

    A new generation is written beside the current one and becomes current by one rename of the
    header, so a kill at any moment leaves a whole repository: the old or the new one.

    Args:
        folder: the repository.
        header: the new model's hashes and row shapes (its generation is ignored).
        make: edits and a reader of images to the experts' arrays [N, ...].
        batch_n: at most so many edits for one call of `make`.

    Returns:
        How many experts were re-made (the live ones and those that a rollback can revive).

    Raises:
        ValueError: a request does not fit the new model; the repository stays as it was.
    """
    with open_store(folder, write=True) as store:
        old, new = store.header, replace(header, generation=store.header.generation + 1)
        history = store.history
        home = generation_folder(store.folder, new.generation)
        shutil.rmtree(home, ignore_errors=True)  # what a killed rebuild left
        (home / "experts").mkdir(parents=True)
        try:
            place = {}
            kept = [history.edits[i] for i in sorted(history.revivable())]
            for at in range(0, len(kept), batch_n):
                part = kept[at : at + batch_n]
                packed = pack(new.shapes, make(part, store.image))
                crcs = write_rows(home / "experts", at, packed)
                place.update({e.id: (at + i, crcs[i]) for i, e in enumerate(part)})
            records = []
            for record in store.records():
                if record["op"] == "edit":
                    row, crc = place.get(record["id"], (None, None))
                    record = {**record, "row": row, "row_crc32": crc}
                records.append(record)
            create_generation(store.folder, new.generation, records)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        write_header(store.folder, new)  # the switch; after it `home` must stay, whatever happens
        shutil.rmtree(generation_folder(store.folder, old.generation), ignore_errors=True)
    return len(kept)
