"""Model folders that somebody else made or damaged: nothing in them runs, and all parts fit."""

import json
import os
import shutil

import pytest

from liveedit_jax.backbones import machine
from liveedit_jax.model_io.model import TOKENIZER, load_model, save_backbone
from liveedit_jax.model_io.weights import load_weights, save_weights


@pytest.fixture(scope="module")
def saved_folder(model_folder, tmp_path_factory):
    """A model folder whose recipe says which tokenizer it is for."""
    made = tmp_path_factory.mktemp("saved") / "m"
    shutil.copytree(model_folder, made)
    model = load_model(made)
    weights, recipe = load_weights(made / "backbone")
    recipe.pop("sha256")
    assert save_backbone(made, weights, recipe, model.tokenizer) == model.backbone_sha256
    return made


@pytest.fixture
def folder(saved_folder, tmp_path):
    """A copy to damage."""
    return shutil.copytree(saved_folder, tmp_path / "m")


def recipe_of(part, **changes):
    def change(folder):
        file = folder / part / "recipe.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tokenizer_of(change_words):
    def change(folder):
        words = json.loads((folder / TOKENIZER).read_text())
        change_words(words["model"])
        (folder / TOKENIZER).write_text(json.dumps(words))

    return change


def rotate(model):
    late = [word for word, i in model["vocab"].items() if i > 300]
    ids = [model["vocab"][word] for word in late]
    model["vocab"].update(zip(late, ids[1:] + ids[:1], strict=True))


def enlarge(model):
    model["vocab"].update({w: i + 100_000 for w, i in model["vocab"].items() if i > 300})


def without_hash(change):
    """The same in a folder of an older version, whose recipe does not name the tokenizer."""

    def both(folder):
        file = folder / "backbone" / "recipe.json"
        recipe = json.loads(file.read_text())
        recipe.pop("tokenizer_sha256")
        file.write_text(json.dumps(recipe))
        change(folder)

    return both


def text_of(name, text):
    return lambda folder: (folder / name).write_text(text)


DAMAGES = {
    "tokenizer rotated": (tokenizer_of(rotate), "not the tokenizer that the backbone"),
    "tokenizer of fewer merges": (
        tokenizer_of(lambda model: model.update(merges=model["merges"][:-200])),
        "not the tokenizer that the backbone",
    ),
    "tokenizer enlarged": (tokenizer_of(enlarge), "not the tokenizer that the backbone"),
    "tokenizer enlarged, older": (
        without_hash(tokenizer_of(enlarge)),
        "the id 100301, and the model's embedding has 1024 rows",
    ),
    "tokenizer {}": (without_hash(text_of(TOKENIZER, "{}")), "not a valid tokenizer.json"),
    "tokenizer empty": (without_hash(text_of(TOKENIZER, "")), "not a valid tokenizer.json"),
    "tokenizer deep": (without_hash(text_of(TOKENIZER, "[" * 10**5)), "not a valid tokenizer"),
    "recipe a list": (text_of("editor/recipe.json", "[]"), "recipe.json has no sha256"),
    "recipe null": (text_of("editor/recipe.json", "null"), "recipe.json has no sha256"),
    "recipe {}": (text_of("editor/recipe.json", "{}"), "recipe.json has no sha256"),
    "recipe deep": (text_of("editor/recipe.json", "[" * 10**5), "nested too deeply"),
    "recipe of a number": (text_of("editor/recipe.json", '{"sha256": 3}'), "has no sha256"),
    "config unknown": (recipe_of("backbone", config="nope"), "'nope', which is no preset"),
    "config a file": (
        recipe_of("backbone", config="evil.py"),
        "code that a model names is not run",
    ),
    "config a list": (recipe_of("backbone", config=["tiny"]), "which is no preset"),
    "config missing": (recipe_of("backbone", config=None), "None, which is no preset"),
    "config of others": (recipe_of("backbone", config="llava-1.5-7b"), "has other shapes than"),
    "editor null": (recipe_of("editor", editor=None), "does not fit this version"),
    "editor of text": (recipe_of("editor", editor={"rank": "x"}), "rank is 'x'"),
    "editor of truth": (recipe_of("editor", editor={"top_k": True}), "top_k is True"),
    "editor of nothing": (recipe_of("editor", editor={"heads_n": 0}), "heads_n is 0"),
    "editor of no heads": (recipe_of("editor", editor={"heads_n": -4}), "heads_n is -4"),
    "edit layer 99": (recipe_of("editor", edit_layer=99), "does not fit this version"),
    "edit layer of text": (recipe_of("editor", edit_layer="x"), "edit_layer is 'x'"),
    "no backbone named": (recipe_of("editor", backbone_sha256=None), "trained for another"),
    "the backbone as editor": (
        lambda m: (
            shutil.rmtree(m / "editor" / "weights"),
            shutil.copytree(m / "backbone" / "weights.2", m / "editor" / "weights"),
        ),
        "does not match the sha256",
    ),
    "weights gone": (lambda m: shutil.rmtree(m / "backbone" / "weights.2"), "truncated or corrupt"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_refused_by_name(folder, damage):
    change, says = DAMAGES[damage]
    change(folder)
    with pytest.raises(ValueError, match=says) as refused:
        load_model(folder)
    assert len(str(refused.value)) < 1000


def test_no_code_of_a_model_folder_runs(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m" / "config.py").write_text("open('ran', 'w')\nCONFIG = None\n")
    recipe_of("backbone", config="m/config.py")(folder)
    with pytest.raises(ValueError, match="code that a model names is not run"):
        load_model("m")
    assert not (tmp_path / "ran").exists()


def test_a_preset_of_ones_own_opens_a_folder_that_names_a_file(folder, tmp_path):
    config = load_model(folder).config
    recipe_of("backbone", config="mine.py")(folder)
    assert load_model(folder, config).config == config


def test_the_new_tokenizer_is_used_where_saving_stopped_before_it_was_in_place(folder):
    (folder / TOKENIZER).rename(folder / "tokenizer.new.json")
    (folder / TOKENIZER).write_text("the old one")
    assert load_model(folder).tokenizer.vocab_n == 1024


def test_a_missing_accelerator_is_said(folder, monkeypatch):
    def refuse():
        raise RuntimeError("Unable to initialize backend 'cuda'\nmore")

    monkeypatch.setattr(machine.jax, "local_devices", refuse)
    with pytest.raises(OSError, match="JAX finds no device to compute on .Unable to init") as said:
        load_weights(folder / "backbone")
    assert "\n" not in str(said.value) and "corrupt" not in str(said.value)


IMPORTS = """
import encodings.utf_8_sig, jax, orbax.checkpoint
from liveedit_jax.model_io.weights import load_weights
jax.devices()
"""
LOAD = """
try:
    load_weights(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_files_that_may_not_be_read_are_not_called_damaged(tmp_path, run_without_rights):
    save_weights(tmp_path / "w", {"a": [1.0]}, {})
    for file in (tmp_path / "w" / "weights").rglob("*"):
        if file.is_file():
            file.chmod(0)
    done = run_without_rights(IMPORTS, LOAD, tmp_path / "w")
    assert done.stdout.startswith("OSError") and "cannot be read" in done.stdout, done
    assert "corrupt" not in done.stdout
