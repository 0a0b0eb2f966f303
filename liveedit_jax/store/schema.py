"""The SQLite file: its tables, how it is opened and made, and what SQLite's errors mean."""

from __future__ import annotations

import errno
import math
import os
import shlex
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from liveedit_jax.store.durable import create_file
from liveedit_jax.store.records import State

APPLICATION_ID = 0x4C764564  # "LvEd"
BUSY_S = 10.0  # a writer waits so long for another one
CACHE_KIB = {True: 8192, False: 2048}  # of a writer's transaction; a reader's fits the processor's
PAGE_BYTES = 16384  # an expert of LLaVA's width takes a few pages; a small edit does not write many

# Entry n leads from version n to version n + 1.
MIGRATIONS = (
    """
    CREATE TABLE repository (
      id INTEGER PRIMARY KEY CHECK (id = 1),
      backbone_sha256 TEXT NOT NULL, editor_sha256 TEXT NOT NULL, tokenizer_sha256 TEXT NOT NULL,
      shapes TEXT NOT NULL, dtype TEXT NOT NULL, generation INTEGER NOT NULL,
      epoch INTEGER NOT NULL, clock INTEGER NOT NULL, operations INTEGER NOT NULL,
      last_id INTEGER NOT NULL, digest INTEGER NOT NULL, checksum INTEGER NOT NULL
    );
    CREATE TABLE pictures (sha256 TEXT PRIMARY KEY, bytes BLOB NOT NULL);
    CREATE TABLE edits (
      id INTEGER PRIMARY KEY, picture TEXT REFERENCES pictures (sha256),
      prompt TEXT NOT NULL, target TEXT NOT NULL, file TEXT,
      born INTEGER NOT NULL, died INTEGER, experts_n INTEGER NOT NULL, checksum INTEGER NOT NULL
    );
    CREATE INDEX edits_picture ON edits (picture);
    CREATE INDEX edits_died ON edits (died) WHERE died IS NOT NULL;
    CREATE TABLE experts (
      id INTEGER PRIMARY KEY, edit INTEGER NOT NULL REFERENCES edits (id) ON DELETE CASCADE,
      generation INTEGER NOT NULL, nth INTEGER NOT NULL, shapes TEXT NOT NULL, dtype TEXT NOT NULL,
      crc32 INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (edit, generation, nth)
    );
    CREATE TRIGGER picture_of_nobody AFTER DELETE ON edits BEGIN
      DELETE FROM pictures WHERE sha256 = OLD.picture
        AND NOT EXISTS (SELECT 1 FROM edits WHERE picture = OLD.picture);
    END;
    """,
)

STATE = "INSERT OR REPLACE INTO repository VALUES (1" + ", ?" * 12 + ")"


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring the tables from `version` to today's, inside an open transaction."""
    for script in MIGRATIONS[version:]:
        statement = ""
        for piece in script.split(";"):
            statement += piece + ";"
            if sqlite3.complete_statement(statement):
                db.execute(statement)
                statement = ""
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def create_database(path: Path, state: State) -> None:
    """Put a new repository at `path` in one step; what another process has put there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_file(path) as fresh, closing(sqlite3.connect(fresh, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = MEMORY")  # nobody sees it yet: no file beside it
        db.execute("BEGIN")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(db, 0)
        db.execute(STATE, state.row())
        db.execute("COMMIT")


def check_path(path: Path, write: bool) -> os.stat_result:
    """Refuse what cannot be a repository, before SQLite touches it.

    Raises:
        FileNotFoundError: nothing is there, or a folder.
        PermissionError: it may not be read, or written.
        ValueError: a folder of an earlier version, an empty or a special file.
    """
    name = shlex.quote(str(path))
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"no edit repository at {path}; `liveedit edit --repo {name} ...` makes one"
        ) from None
    if stat.S_ISDIR(found.st_mode):
        if (path / "header.json").is_file():
            raise ValueError(
                f"{path} is a repository folder of an earlier version: "
                f"`liveedit import {name} --repo NEW --model MODEL` makes its edits again in NEW"
            )
        raise FileNotFoundError(f"no edit repository at {path}: it is a folder; name a file")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no regular file; choose a new name")
    if not found.st_size:
        raise ValueError(
            f"{path} is empty (0 bytes): restore it from a backup, or remove it to begin anew"
        )
    needed = ((path, os.R_OK), *(((path, os.W_OK), (path.parent, os.W_OK)) if write else ()))
    for each, right in needed:
        if not os.access(each, right):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(each))
    return found


def connect(path: Path, write: bool) -> sqlite3.Connection:
    """Open a repository's file, whose tables are today's afterwards.

    Args:
        path: an absolute path.
        write: whether it may be changed.

    Raises:
        ValueError: something else is there, or a newer version made it.
    """
    # SQLite opens what may not be written for reading; a reader may have to undo what a killed
    # writer left half-written.
    db = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", BUSY_S, isolation_level=None, check_same_thread=False, uri=True
    )
    try:
        for pragma in ("foreign_keys = ON", "synchronous = EXTRA", "secure_delete = ON",
                       "trusted_schema = OFF", "cell_size_check = ON",
                       f"cache_size = -{CACHE_KIB[write]}",
                       f"query_only = {'OFF' if write else 'ON'}"):  # fmt: skip
            db.execute(f"PRAGMA {pragma}")
        (owner,), (version,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if owner != APPLICATION_ID or version < 1:
            raise ValueError(f"{path} is another program's database; choose a new name")
        if version > len(MIGRATIONS):
            raise ValueError(
                f"{path} has version {version}, this program reads {len(MIGRATIONS)}: update it"
            )
        if version < len(MIGRATIONS):
            if not write:
                raise ValueError(
                    f"{path} has version {version}, and today's is {len(MIGRATIONS)}: the first "
                    "edit, or anything else that writes, brings it up to date"
                )
            db.execute("BEGIN IMMEDIATE")
            migrate(db, *db.execute("PRAGMA user_version").fetchone())
            db.execute("COMMIT")
        if write:  # another tool may have switched to a log beside the file
            db.execute("PRAGMA journal_mode = DELETE")
    except BaseException:
        db.close()
        raise
    return db


def whole_size(db: sqlite3.Connection) -> int:
    """Compute how many bytes the file has where it is whole."""
    names = "page_count", "page_size"
    return math.prod(db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into those that a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explanation(path, error) from error


def _explanation(path: Path, error: sqlite3.Error) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    locking = (sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_RDLOCK, sqlite3.SQLITE_IOERR_UNLOCK,
               sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK)  # fmt: skip
    said = " ".join(str(error).split())[:200]  # it may quote whole tables
    busy = code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
    if code in locking or (busy and not has_locks(path.parent)):
        return OSError(f"the file system of {path} has no file locks: keep it on a local disk")
    if busy:
        return BlockingIOError(
            f"another process is writing to {path}; wait for it to end and try again"
        )
    match code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN:
            return OSError(f"{path} or its journal could not be opened, read or written ({said})")
        case sqlite3.SQLITE_NOMEM:
            return MemoryError(f"no memory left to read {path}")
        case sqlite3.SQLITE_NOTADB:
            return ValueError(f"{path} is no edit repository, or its beginning is damaged")
    return ValueError(f"{path} is damaged ({said}); restore it from a backup")


def has_locks(folder: Path) -> bool:
    """Tell whether files in a folder can be locked, so that nobody is blamed where they cannot."""
    try:
        import fcntl
    except ImportError:  # Windows has others, which SQLite uses
        return True
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
    return True
