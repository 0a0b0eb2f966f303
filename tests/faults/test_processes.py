"""Threads and forked children that share an open repository."""

import os
import sys
import threading
from collections import Counter

import pytest
from small_store import HEADER, add, check, fill, picture, request

from liveedit_jax.store import open_store


def in_child(run):
    """Fork, run something in the child, which ends as programs do, and return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = run()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")
def test_a_forked_child_is_refused_and_its_parent_goes_on(tmp_path):
    path = tmp_path / "repo"
    with open_store(path, write=True, create=HEADER) as store:
        add(store, 1)

        def child():
            refused = 0
            for run in (
                lambda: add(store, 2),
                lambda: store.history,
                lambda: store.refresh(),
                lambda: store.picture(request(1).image),
            ):
                try:
                    run()
                except ValueError as error:
                    refused += "forked" in str(error)
            store.close()
            with open_store(path, write=True) as again:  # its own is welcome
                add(again, 7)
            return 0 if refused == 4 else 1

        assert in_child(child) == 0
        add(store, 3)
        assert check(store) == {1: "t1", 2: "t7", 3: "t3"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")
def test_children_that_end_while_a_thread_writes_undo_nothing(tmp_path):
    path = tmp_path / "repo"
    fill(path, 1)
    with open_store(path, write=True) as store:
        written, stop = [], threading.Event()

        def write():
            while not stop.is_set():
                written.extend(add(store, len(written) + 10))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(20):

                def child():
                    store._db.close()  # as when an interpreter ends
                    return 0

                assert in_child(child) == 0
        finally:
            stop.set()
            thread.join()
        assert set(written) <= set(check(store))
    with open_store(path) as store:
        assert set(written) <= set(check(store))


def test_threads_share_a_store(tmp_path):
    path, errors = tmp_path / "repo", Counter()
    sys_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with open_store(path, write=True, create=HEADER) as store:
        add(store, 0, 1, 2)
        stop = threading.Event()

        def read():
            while not stop.is_set():
                try:
                    assert store.picture(request(1).image) == picture(1)
                    assert {1, 2, 3} <= set(store.history.live.values())
                    assert store.find(request(2)) == 3
                except Exception as error:
                    errors[repr(error)] += 1

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for i in range(10, 30):
                add(store, i)
                store.forget(store.find(request(i)))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(sys_interval)
        assert not errors and check(store) == {1: "t0", 2: "t1", 3: "t2"}
