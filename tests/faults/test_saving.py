"""Saving over a model, stopped at every step: the old weights are there, or the new ones."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from liveedit_jax.model_io import weights as module
from liveedit_jax.model_io.weights import load_weights, save_weights

OLD, NEW = {"a": np.zeros(3)}, {"a": np.ones(3)}


class Stop(Exception):
    """A process that ends here."""


def stopping_at(monkeypatch, step):
    """Have the step-th call that changes the disk fail before it does anything."""
    done = []

    def counted(real):
        def call(*args, **kwargs):
            done.append(1)
            if len(done) == step:
                raise Stop
            return real(*args, **kwargs)

        return call

    for owner, name in (
        *((Path, name) for name in ("rename", "mkdir", "write_text")),
        *((os, name) for name in ("replace", "fsync")),
        (shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return done


@pytest.mark.parametrize("saves_n", [1, 2])  # into either of the two folders
def test_there_are_weights_at_every_moment(tmp_path, saves_n):
    def write_small(folder, tree):  # instead of Orbax, whose many files change nothing here
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", np.asarray(tree["a"]))

    def read_small(folder, recipe):
        return {"a": np.load(folder / recipe.get("weights", module.SLOTS[0]) / "a.npy")}

    step, stopped = 0, True
    while stopped:
        step += 1
        folder = tmp_path / str(step) / "backbone"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_write_arrays", write_small)
            patch.setattr(module, "_read_arrays", read_small)
            for _ in range(saves_n):
                save_weights(folder, OLD, {"made": "before"})
            with pytest.MonkeyPatch.context() as inner:
                stopping_at(inner, step)
                try:
                    save_weights(folder, NEW, {"made": "now"})
                    stopped = False
                except Stop:
                    pass
            found, recipe = load_weights(folder)
            assert found["a"].tolist() == ([0] * 3 if recipe["made"] == "before" else [1] * 3)
            assert stopped or recipe["made"] == "now"
            save_weights(folder, NEW, {"made": "later"})
            found, recipe = load_weights(folder)
            assert found["a"].tolist() == [1] * 3 and recipe["made"] == "later"
            assert len(list(folder.iterdir())) == 2  # the recipe and one folder of weights
    assert step > 4


def test_weights_that_were_replaced_while_they_were_read_are_read_again(tmp_path, monkeypatch):
    save_weights(tmp_path / "w", OLD, {})
    real, calls = module._read_arrays, []

    def slow(folder, recipe):
        calls.append(1)
        if len(calls) == 1:
            save_weights(tmp_path / "w", NEW, {})
        return real(folder, recipe)

    monkeypatch.setattr(module, "_read_arrays", slow)
    assert load_weights(tmp_path / "w")[0]["a"].tolist() == [1] * 3 and len(calls) == 2


def test_a_recipe_names_no_weights_elsewhere(tmp_path):
    save_weights(tmp_path / "w", OLD, {})
    for name in ("../other", "/", "weights/../..", 3, None, ["weights"]):
        recipe = {"sha256": "0" * 64, "weights": name}
        (tmp_path / "w" / "recipe.json").write_text(module.json.dumps(recipe))
        with pytest.raises(ValueError, match="recipe.json says weights is none of"):
            load_weights(tmp_path / "w")


def test_what_is_no_number_in_a_recipe_does_not_keep_it_from_being_read(tmp_path):
    save_weights(tmp_path / "w", OLD, {"dev": float("nan")})
    assert load_weights(tmp_path / "w")[1]["dev"] is None
