"""A person stops what runs, at any line and at any moment, and goes on with the same repository."""

import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from small_store import HEADER, add, check, fill

import liveedit_jax.store
from liveedit_jax.store import open_store

EVERY = int(os.environ.get("INTERRUPT_EVERY", "7"))  # lines; 1 takes a few minutes
STORE = str(Path(liveedit_jax.store.__file__).parent)


@pytest.fixture
def folder(tmp_path):
    """A folder in memory where there is one: these tests write thousands of times."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path
        return
    made = tempfile.mkdtemp(dir="/dev/shm")
    yield Path(made)
    shutil.rmtree(made)


class InterruptAt:
    """Raise KeyboardInterrupt at the n-th line of the store that is run."""

    def __init__(self, n):
        self.left, self.where = n, None

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(STORE):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self


OPERATIONS = {
    "edits": lambda store: add(store, 0, 11, 12),
    "forget": lambda store: store.forget(1),
    "rollback": lambda store: store.rollback(2),
    "purge": lambda store: store.purge(1),
    "refresh": lambda store: store.refresh(),
    "find": lambda store: store.picture(store.history.edits[1].request.image),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_and_file_agree_after_an_interrupt_at_any_line(folder, name):
    start, path = folder / "start", folder / "repo"
    fill(start, 3)
    for n in range(1, 10_000, EVERY):
        shutil.copyfile(start, path)
        (folder / "repo-journal").unlink(missing_ok=True)
        with open_store(path, write=True) as store, open_store(path, write=True) as other:
            if name == "refresh":
                add(other, 50)
                other.forget(3)
            interrupt = InterruptAt(n)
            sys.settrace(interrupt)
            try:
                OPERATIONS[name](store)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            if interrupt.where is None:
                break
            with open_store(path) as reader:  # before anything mends what is in memory
                assert check(store) == check(reader), interrupt.where
            (edit_id,) = add(store, 20)
            store.forget(edit_id)
            (last,) = add(store, 21)
            believed = check(store)
            assert believed[last] == "t21"
        with open_store(path) as reader:
            assert check(reader) == believed, interrupt.where
    assert n > 20


def test_control_c_at_random_moments(folder):
    rng, interrupted = random.Random(1), 0

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(25):
            path = folder / "repo"
            path.unlink(missing_ok=True)
            with open_store(path, write=True, create=HEADER) as store:
                acknowledged = add(store, 1)
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.02))
                    for first in range(10, 200, 8):
                        acknowledged += add(store, *range(first, first + 8))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                acknowledged += add(store, 5)
                believed = check(store)
            with open_store(path) as store:
                assert check(store) == believed and set(acknowledged) <= set(believed)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted
