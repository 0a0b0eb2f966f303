"""Any editor over records from Python: the figures of the command line."""

import json

import pytest

import liveedit_jax
from liveedit_jax.data import edit_stream
from liveedit_jax.data.records import Record
from liveedit_jax.evaluation.cases import cases_sha256, make_cases, stream_cases
from liveedit_jax.evaluation.run import RunSpec, run

TIMES = ("seconds", "peak_rss_gb", "compile_n", "config", "seed", "commit")


def figures(results):
    """Keep what does not depend on the clock."""
    kept = {name: value for name, value in results.items() if name not in TIMES}
    marks = [{k: v for k, v in mark.items() if "_ms" not in k} for mark in kept["marks"]]
    return kept | {"marks": marks}


@pytest.fixture(scope="module")
def model(model_folder):
    return liveedit_jax.open_model(model_folder)


def test_figures_are_those_of_the_command_line(model, model_folder, tmp_path):
    records = edit_stream("eval", 0, 3)
    found = liveedit_jax.evaluate("liveedit", model, records, (1, 3), out=tmp_path / "ours")
    theirs = run(RunSpec(model=str(model_folder), marks=(1, 3)), tmp_path / "theirs", 0.0)
    assert figures(found) == figures(theirs)
    assert json.loads((tmp_path / "ours" / "results.json").read_text()) == found
    assert (tmp_path / "ours" / "report.html").is_file()
    again = liveedit_jax.evaluate(
        "liveedit", model_folder, list(edit_stream("eval", 0, 3)), (1, 3), out=tmp_path / "ours"
    )
    assert again == found  # the finished run


def test_what_cannot_be_evaluated_is_refused(model, tmp_path):
    records = list(edit_stream("eval", 0, 2))
    with pytest.raises(KeyError, match="unknown editor 'none'; known: liveedit, ft_l"):
        liveedit_jax.evaluate("none", model, records, (1,))
    with pytest.raises(FileNotFoundError, match="no weights of mend"):
        liveedit_jax.evaluate("mend", model, records, (1,))
    with pytest.raises(ValueError, match="below the largest mark, 100"):
        liveedit_jax.evaluate("liveedit", model, records)
    with pytest.raises(ValueError, match="no records"):
        liveedit_jax.evaluate("liveedit", model, iter(()))
    own = Record(**{**vars(records[1]), "dataset": "mine"})
    with pytest.raises(ValueError, match="records of .*: give those of one of mojiedit, evqa"):
        liveedit_jax.evaluate("liveedit", model, [records[0], own], (1,))


def test_records_are_asked_with_their_benchmarks_prompts():
    record = next(edit_stream("eval", 0, 1))
    assert record.dataset == "mojiedit"
    own, asked = (
        make_cases([Record(**{**vars(record), "dataset": name})])[0] for name in (None, "evqa")
    )
    assert own.edit.prompt == record.src and asked.edit.prompt == f"{record.src} The answer is:"
    assert cases_sha256([own]) != cases_sha256([asked])
    assert cases_sha256(stream_cases("eval", 0, 1, 60)) == cases_sha256([own])
