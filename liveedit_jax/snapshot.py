"""Snapshots of the repository in memory: one Orbax folder each, whole or not there at all.

    generation-N/snapshots/SEQ/arrays/        an Orbax checkpoint of the arrays
    generation-N/snapshots/SEQ/manifest.json  what it belongs to, and every file's size and crc32

A snapshot only makes opening faster: journal and expert rows hold everything, and are used where a
snapshot is missing, older than a rollback, or damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax

from liveedit_jax.store.durable import replace_file, sync_folder
from liveedit_jax.store.journal import encode_line
from liveedit_jax.types import Repository

KEPT_N = 2  # the newest, and one more for readers that are just opening it


def journal_sha256(records: Sequence[dict]) -> str:
    """Compute the sha256 of operations, by which a snapshot says which ones it holds."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(encode_line(record))
    return digest.hexdigest()


def _checksums(folder: Path) -> dict[str, list[int]]:
    """Compute size and crc32 of every file in a folder, by relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    data = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    return {name: [len(content), zlib.crc32(content)] for name, content in data.items()}


def _layout(repo: Repository) -> dict[str, list]:
    """List every array's dtype and shape, without the capacity."""
    leaves = jax.tree_util.tree_leaves_with_path(repo)
    return {jax.tree_util.keystr(path): [str(leaf.dtype), *leaf.shape[1:]] for path, leaf in leaves}


def _sync_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _snapshots(folder: Path) -> list[Path]:
    """List whole snapshots, newest first."""
    found = [path for path in folder.glob("*") if path.name.isdigit()]
    return sorted(found, key=lambda path: -int(path.name))


def save_snapshot(folder: Path, repo: Repository, records: Sequence[dict]) -> Path:
    """Write a snapshot of `repo`, the state after all of `records`, and remove old ones.

    Raises:
        OSError: the disk is full or failing; nothing of the repository is touched.
    """
    import orbax.checkpoint as ocp

    folder.mkdir(exist_ok=True)
    home, fresh = folder / str(len(records)), folder / ".writing"
    shutil.rmtree(fresh, ignore_errors=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((fresh / "arrays").resolve(), repo)
        manifest = {
            "journal_sha256": journal_sha256(records),
            "layout": _layout(repo),
            "files": _checksums(fresh),
        }
        replace_file(fresh / "manifest.json", json.dumps(manifest, indent=1).encode())
        _sync_all(fresh)
        shutil.rmtree(home, ignore_errors=True)
        fresh.rename(home)
        sync_folder(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    for old in _snapshots(folder)[KEPT_N:]:
        shutil.rmtree(old, ignore_errors=True)
    return home


def load_snapshot(
    folder: Path, like: Repository, records: Sequence[dict]
) -> tuple[Repository | None, int, list[str]]:
    """Load the newest snapshot that is whole and belongs to this journal.

    Args:
        folder: where snapshots are.
        like: a repository of the wanted widths and dtypes, of any capacity (shapes alone are read).
        records: the journal's records.

    Returns:
        The repository (None: there is no such snapshot), how many records it holds, and which
        snapshots were skipped, and why.

    Raises:
        ValueError: a snapshot holds more operations than the journal, which has lost some.
    """
    skipped = []
    for home in _snapshots(folder):
        seq = int(home.name)
        if seq > len(records):
            raise ValueError(
                f"the journal beside {folder} ends at operation {len(records)}, but a snapshot of "
                f"operation {seq} is there: restore the journal from a backup (or, to go back to "
                f"operation {len(records)} deliberately, remove {home})"
            )
        try:
            repo = _read(home, like, records, seq)
        except Exception as error:  # Orbax raises a different class for every way it can be torn
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            skipped.append(f"snapshot {home} was not used: {reason}")
            continue
        return repo, seq, skipped
    return None, 0, skipped


def _read(home: Path, like: Repository, records: Sequence[dict], seq: int) -> Repository:
    import orbax.checkpoint as ocp

    manifest = json.loads((home / "manifest.json").read_bytes())
    found = _checksums(home)
    found.pop("manifest.json")
    wrong = sorted(
        name
        for name in found.keys() | manifest["files"].keys()
        if found.get(name) != manifest["files"].get(name)
    )
    if wrong:
        raise ValueError(f"{wrong[0]} is damaged or missing")
    if manifest["journal_sha256"] != journal_sha256(records[:seq]):
        raise ValueError("it belongs to another journal")
    if manifest["layout"] != _layout(like):  # Orbax would cast
        raise ValueError("it is stored in another precision")
    if any(record["op"] == "rollback" for record in records[seq:]):
        raise ValueError("it is older than a rollback")
    logging.getLogger("absl").setLevel(logging.ERROR)
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata((home / "arrays").resolve()).item_metadata.tree
        capacity = saved["born"].shape[0]
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def like_saved(leaf):
            shape = (capacity, *leaf.shape[1:]) if leaf.ndim else ()
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=place)

        return checkpointer.restore((home / "arrays").resolve(), jax.tree.map(like_saved, like))
