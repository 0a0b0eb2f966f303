"""A few minutes' worth of `experiments.checks.soak`, in a moment."""

from experiments.checks.soak import QUARTERS_N, soak
from liveedit_jax.session import open_model


def test_two_threads_lose_nothing_and_need_no_more_rows(model_folder, tmp_path):
    rows = soak(open_model(model_folder), tmp_path / "repo", 192, 48)  # raises where one is lost
    assert len(rows) == QUARTERS_N
    assert [row["live"] for row in rows] == [48] * QUARTERS_N
    assert rows[-1]["capacity"] == 64  # dead rows are used again
