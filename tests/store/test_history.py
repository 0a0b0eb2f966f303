"""Supersede, forget and rollback against a plain model that copies the whole state."""

import random

import pytest

from liveedit_jax.store.history import History, Request, replay


def _edit(history, request):
    (record,) = history.edit_records([request], [history.seq], ["0" * 8])
    history.apply(record)
    return record


def test_random_operations_equal_a_model_of_full_copies():
    rng = random.Random(0)
    for _ in range(30):
        history, records = History(), []
        states = [{}]  # subject -> (id, target) after each operation that can be undone
        for step in range(60):
            kind = rng.choice(["edit", "edit", "edit", "forget", "rollback"])
            state = dict(states[-1])
            if kind == "edit":
                request = Request(f"i{rng.randrange(3)}", f"p{rng.randrange(3)}", f"t{step}")
                record = _edit(history, request)
                state[request.subject] = (record["id"], request.target)
                states.append(state)
            elif kind == "forget" and state:
                subject = rng.choice(sorted(state))
                record = history.forget_record(state.pop(subject)[0])
                history.apply(record)
                states.append(state)
            elif kind == "rollback" and len(states) > 1:
                n = rng.randint(1, min(4, len(states) - 1))
                record = history.rollback_record(n)
                history.apply(record)
                del states[-n:]
            else:
                continue
            records.append(record)
            live = {e.request.subject: (e.id, e.request.target) for e in history.live_edits()}
            assert live == states[-1]
        again = replay(records)
        assert again.live == history.live and again.done == history.done
        revived = set()
        while again.done:
            revived |= set(again.live.values())
            again.apply(again.rollback_record(1))
        assert again.live == {} and history.revivable() == revived


def test_ids_are_never_given_twice():
    history = History()
    first = _edit(history, Request("i", "p", "a"))["id"]
    history.apply(history.rollback_record(1))
    assert _edit(history, Request("i", "p", "a"))["id"] > first


def test_refusals_change_nothing():
    history = History()
    _edit(history, Request("i", "p", "a"))
    _edit(history, Request("i", "p", "b"))
    for refused, match in (
        (lambda: history.forget_record(9), "no edit 9"),
        (lambda: history.forget_record(1), "not live"),
        (lambda: history.rollback_record(3), "only 2"),
        (lambda: history.rollback_record(0), "from 1 up"),
    ):
        with pytest.raises(ValueError, match=match):
            refused()
    assert history.seq == 2 and [e.id for e in history.live_edits()] == [2]


def test_a_journal_that_does_not_follow_is_refused():
    with pytest.raises(ValueError, match="jumps"):
        replay([{"seq": 2, "op": "forget", "id": 1}])
    with pytest.raises(ValueError, match="makes no sense"):
        replay([{"seq": 1, "op": "forget", "id": 1}])
    with pytest.raises(ValueError, match="unknown to this version"):
        replay([{"seq": 1, "op": "dance"}])
