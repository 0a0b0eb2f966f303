"""A small repository whose experts tell which edit they belong to."""

import hashlib

import numpy as np

from liveedit_jax.store import Header, Request, open_store

SHAPES = {"text_key": (3,), "vision_key": (3,), "down": (2, 4), "up": (2, 4)}
HEADER = Header("b" * 64, "e" * 64, "t" * 64, SHAPES)


def arrays(*values):
    """Make experts that are filled with one value each."""
    return {
        name: np.stack([np.full(shape, v, np.float32) for v in values])
        for name, shape in SHAPES.items()
    }


def picture(i):
    """Make the bytes of a picture."""
    return b"picture %d" % i


def request(i, prompt="what?", target=None):
    """Make a request about picture `i`."""
    sha256 = hashlib.sha256(picture(i)).hexdigest()
    return Request(sha256, prompt, f"t{i}" if target is None else target)


def add(store, *numbers, prompt="what?"):
    """Add edits whose targets and experts are these numbers."""
    requests = [request(i, prompt) for i in numbers]
    return store.add_edits(requests, arrays(*numbers), [picture(i) for i in numbers])


def fill(path, count, start=0):
    """Add edits one by one to a repository that may be new."""
    with open_store(path, write=True, create=HEADER) as store:
        return [add(store, i)[0] for i in range(start, start + count)]


def values(store):
    """Read the number of every live edit's expert, by id; all arrays of it have to agree."""
    found = {}
    with store.transaction():
        for ids, arrays in store.experts():
            for row, edit_id in enumerate(ids):
                (value,) = {float(x) for each in arrays.values() for x in each[row].flat}
                found[edit_id] = value
    return found


def check(store):
    """Check that every live edit has its own expert and picture; returns {id: target}."""
    live, experts = {}, values(store)
    for edit in store.history.live_edits():
        number = int(edit.request.target[1:])
        assert experts.pop(edit.id) == number
        assert store.picture(edit.request.image) == picture(number)
        live[edit.id] = edit.request.target
    assert not experts
    return live
