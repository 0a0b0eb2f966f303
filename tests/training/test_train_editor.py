"""`train_editor` from the command line, on a public benchmark's own files."""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict

import jax
import numpy as np
import pytest
from PIL import Image
from small_model import EDITOR, SMALL, small_weights

from experiments import train_editor
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.model_io.model import SHIPPED, load_model
from liveedit_jax.model_io.weights import load_weights, save_weights
from liveedit_jax.presets import preset

CONFIG = """
from dataclasses import replace
from small_model import EDITOR, SMALL
from liveedit_jax.config import EditorTrainConfig
from liveedit_jax.presets import preset

RECIPE = EditorTrainConfig(batch_n=2, learning_rate=1e-2, routing_repository_n=8,
                           start_false_hits=1.0)
CONFIG = replace(preset("tiny", "evqa"), backbone=SMALL, editor=EDITOR, editor_train=RECIPE)
"""
DRAWINGS = CONFIG.replace('preset("tiny", "evqa")', 'preset("tiny")')

DIRECTIONS = DRAWINGS.replace(
    "RECIPE =",
    """FIT = DirectionsFitConfig(
    recoloured_n=0, collages_n=4, views_n=1, image_steps_n=5, groups_n=30, steps_n=5
)
EDITOR = replace(
    EDITOR, image_direction_n=8, image_bands_n=5, text_direction_n=6, joint_scale=9.0
)
RECIPE =""",
)
DIRECTIONS = DIRECTIONS.replace("1.0)", "1.0, directions=FIT)")
DIRECTIONS = DIRECTIONS.replace("EditorTrainConfig\n", "DirectionsFitConfig, EditorTrainConfig\n")


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "small_evqa.py"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A model folder of the config's shapes, untrained."""
    folder = tmp_path_factory.mktemp("untrained")
    sha256 = save_weights(folder / "backbone", small_weights(), {"config": "tiny"})
    start = jax.jit(init_params, static_argnums=(1, 2, 3))
    editor = start(jax.random.key(1), EDITOR, SMALL.width, SMALL.vision_n)
    recipe = {"editor": asdict(EDITOR), "backbone_sha256": sha256}
    save_weights(folder / "editor", editor, recipe)
    shutil.copy(SHIPPED / "tiny" / "tokenizer.json", folder)
    return folder


@pytest.fixture
def model(untrained, tmp_path):
    """A copy to train."""
    return shutil.copytree(untrained, tmp_path / "model")


@pytest.fixture
def files(tmp_path):
    """E-VQA's training rows, with drawn pictures."""
    folder = tmp_path / "files"
    names = {"image": "signs/{}.png", "image_rephrase": "other/{}.png", "m_loc": "far/{}.png"}
    texts = {"src": "What is {}?", "rephrase": "Which is {}?", "alt": "sign {}", "pred": "no",
             "loc": "who", "loc_ans": "me", "m_loc_q": "Is it {}?", "m_loc_a": "no"}  # fmt: skip
    rows = [{k: v.format(i) for k, v in (texts | names).items()} for i in range(6)]
    (folder / "vqa").mkdir(parents=True)
    (folder / "vqa" / "vqa_train.json").write_text(json.dumps(rows))
    for i, picture in enumerate(row[name] for row in rows for name in names):
        (folder / "images" / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (9 * i, 0, 255 - 9 * i)).save(folder / "images" / picture)
    return folder


@pytest.mark.filterwarnings("ignore:.* are published")
@pytest.mark.parametrize("more", [[], ["--mesh", "data=1"]])
def test_a_benchmark_is_trained_on_and_its_editor_shipped(
    more, config, model, files, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    given = {"--config": config, "--model": model, "--start-from": model, "--manual-dir": files}
    given |= {"--out": tmp_path / "run", "--steps": 2}
    asked = ["train_editor", *(str(word) for pair in given.items() for word in pair)]

    def run(*more):
        monkeypatch.setattr(sys, "argv", [*asked, *more])
        train_editor.main()

    before, _ = load_weights(model / "editor")
    run("--ship", str(model), *more)
    shipped = load_model(model, preset(str(config)))  # as evaluation opens it
    _, recipe = load_weights(model / "editor")
    assert (recipe["steps"], recipe["dataset"], recipe["dev"]) == (2, "evqa", None)
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(shipped.editor), strict=True)
    changed = [not np.array_equal(old, new) for old, new in pairs]
    assert np.mean(changed) > 0.5


@pytest.fixture
def open_world(tmp_path):
    """Free questions in E-VQA's format, and two photographs where Tux Paint has them."""
    file = tmp_path / "vqa_train.json"
    rows = [{"src": f"Is it {i}?", "rephrase": f'"Say {i}!"', "alt": f"pear {i}"} for i in range(8)]
    file.write_text(json.dumps(rows))
    for i, name in enumerate(("animals/owl.png", "plants/oak.png", "vehicles/bus.png")):
        stamp = tmp_path / "stamps" / name
        stamp.parent.mkdir(parents=True)
        Image.new("RGBA", (40, 30), (90 * i, 0, 200, 255)).save(stamp)
    return {"--questions": file, "--stamps": tmp_path / "stamps", "--open-share": 0.75}


@pytest.mark.parametrize(
    ("config", "more"), [(DIRECTIONS, []), (DRAWINGS, ["--mesh", "data=1"])], ids=["keys", "mesh"]
)
def test_free_questions_about_photographs_are_trained_on(
    config, more, model, open_world, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "small_mojiedit.py"
    file.write_text(config)
    given = {"--config": file, "--model": model, "--out": tmp_path / "run", "--steps": 2}
    asked = ["train_editor", *(str(word) for pair in (given | open_world).items() for word in pair)]
    monkeypatch.setattr(train_editor, "dev_figures", lambda parts_of, side: lambda state: {})

    def run(*more):
        monkeypatch.setattr(sys, "argv", [*asked, *more])
        train_editor.main()

    states = ["--states", str(tmp_path / "states"), "--batches", "1"]
    run(*(more or [*states, "--steps", "1", "--ship", str(model)]))
    before, _ = load_weights(model / "editor")
    run("--ship", str(model))
    editor, recipe = load_weights(model / "editor")
    sha256 = hashlib.sha256(open_world["--questions"].read_bytes()).hexdigest()
    assert recipe["questions"] == {"vqa_train.json": sha256}
    assert recipe["stamps"]["n"] == 2 and recipe["edit_mixture"]["open_share"] == 0.75
    assert recipe["starts"][0]["questions"] == recipe["questions"]
    losses = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert all(np.isfinite(line["loss"]) for line in losses if "loss" in line)
    if config is DIRECTIONS:  # fitted before the first step, and then left alone
        assert "edit" not in editor and recipe["editor"]["joint_scale"] == 9.0
        assert editor["image"]["kernel"].shape == (2 * 6 * SMALL.width, 8)
        assert -1 < float(editor["image"]["threshold"]) < 1
        for part, stays in (("image", True), ("text", True), ("up", False)):
            same = jax.tree.map(np.array_equal, before[part], editor[part])
            assert all(jax.tree.leaves(same)) == stays


def test_an_editor_to_compare_with_is_trained_resumed_and_shipped(
    model, tmp_path, monkeypatch, capsys
):
    file, run = tmp_path / "small_mojiedit.py", tmp_path / "run"
    file.write_text(DRAWINGS)
    given = {"--config": file, "--model": model, "--editor": "serac", "--out": run, "--batch": 2}
    asked = ["train_editor", *(str(word) for pair in given.items() for word in pair)]

    def train(*more):
        monkeypatch.setattr(sys, "argv", [*asked, *more])
        train_editor.main()
        return capsys.readouterr().out

    assert "step 2 of 2" in train("--steps", "2")
    stopped = train("--steps", "4", "--stop-after", "1e-6", "--ship", str(model))
    assert "nothing is shipped before the end" in stopped and not (model / "baselines").exists()
    train("--steps", "3", "--ship", str(model))
    weights, recipe = load_weights(model / "baselines" / "serac")
    assert (recipe["editor"], recipe["steps"]) == ("serac", 3)
    assert recipe["settings"]["recipe"]["batch_n"] == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--editor", "mend", "--mesh", "data=1"], "--mesh: for LiveEdit alone"),
        (["--editor", "lte", "--dataset", "evqa"], "--dataset: for LiveEdit alone"),
        (["--editor", "grace"], "invalid choice: 'grace'"),  # nothing to train
        (["--processes", "2"], "go with --coordinator"),
        (["--stamps", "folder"], "go with --questions FILES"),
        (["--questions", "file", "--open-share", "2"], "a share between 0 and 1"),
        (["--steps", "-3"], "'-3' is not a whole number from 1 up"),
        (["--learning-rate", "-1"], "'-1' is not a number above 0"),
        (["--batch", "1"], "batch_n=1: routing losses need at least 2 samples"),
        (["--edit-layer", "99"], "--edit-layer 99: from 0 to 5"),
        (["--mesh", "fsdp=8"], "is 8 devices, and there are 1"),
        (["--model", "nope"], "no checkpoint at"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(given, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_editor", *given])
    with pytest.raises(SystemExit) as ended:
        train_editor.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and says in said and said.count("\n") == 1
