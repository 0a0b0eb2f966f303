"""Our modules against the released code's arrays, and that a corrupted case is caught."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.reference.check_golden import main

PART = Path(__file__).parent / "p1-part"
NAMED = os.environ.get("LIVEEDIT_GOLDEN")  # a folder of whole cases
FOLDERS = [PART, *([Path(NAMED)] if NAMED else [])]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_item_is_within_tolerance(capsys, folder):
    assert main(["--dir", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("FAIL")]
    for item in ("extract_from_visprot", "moe_c", "residual", "total_loss", "grad/", "fuse_coe"):
        assert [line for line in lines if item in line]


@pytest.mark.parametrize(
    "name, key, what",
    [
        ("modules", "q0/a1/moe_c", "changed"),
        ("modules", "q0/inpt_extractor/extract_from_visprot", "changed"),
        ("modules", "q0/vision_reps", "changed"),
        ("routing", "query/0/mixed/retrieval_map", "changed"),
        ("routing", "query/0/mixed/residual", "missing"),
        ("routing", "pool/moe_cs", "not finite"),
        ("editor_weights", "moegen_c.phi", "mis-shaped"),
    ],
)
def test_a_corrupted_case_fails(tmp_path, capsys, name, key, what):
    case = tmp_path / "case"
    shutil.copytree(PART, case)
    with np.load(case / f"{name}.npz") as stored:
        arrays = {k: stored[k] for k in stored.files}
    if what == "missing":
        del arrays[key]
    elif what == "mis-shaped":
        arrays[key] = arrays[key][..., :-1]
    elif what == "not finite":
        arrays[key].flat[0] = np.nan
    elif arrays[key].dtype == bool:
        arrays[key].flat[0] ^= True
    else:
        arrays[key].flat[0] += 0.01 * np.abs(arrays[key]).max()
    np.savez(case / f"{name}.npz", **arrays)
    assert main(["--dir", str(case), "--parts", "modules", "routing"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_wrong_loss_or_gradient_fails(tmp_path, capsys):
    case = tmp_path / "case"
    shutil.copytree(PART, case)
    with np.load(case / "train_outputs.npz") as stored:
        arrays = {k: stored[k] for k in stored.files}
    arrays["step0/log/Locality loss"] = arrays["step0/log/Locality loss"] * 1.001
    arrays["step0/grad/moegen_c.phi"].flat[0] += (
        0.001 * np.abs(arrays["step0/grad/moegen_c.phi"]).max()
    )
    np.savez(case / "train_outputs.npz", **arrays)
    assert main(["--dir", str(case), "--parts", "train_inputs"]) == 1
    failed = [x for x in capsys.readouterr().out.splitlines() if x.startswith("FAIL")]
    assert len(failed) == 2


def test_a_truncated_file_and_an_empty_folder_fail(tmp_path, capsys):
    case = tmp_path / "case"
    shutil.copytree(PART, case)
    file = case / "modules.npz"
    file.write_bytes(file.read_bytes()[:1000])
    assert main(["--dir", str(case), "--parts", "modules"]) == 1
    (tmp_path / "empty").mkdir()
    assert main(["--dir", str(tmp_path / "empty")]) == 1
    config = json.loads((PART / "config.json").read_text())
    config["editor"]["lora_scale"] = 7.0
    (case / "config.json").write_text(json.dumps(config))
    assert main(["--dir", str(case), "--parts", "config"]) == 1
