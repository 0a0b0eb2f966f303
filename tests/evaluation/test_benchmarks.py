"""The public benchmarks through the protocol: prompts, labels, orders, files."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments import lifelong_eval
from liveedit_jax.data.annotations import PROMPTS
from liveedit_jax.evaluation import subject
from liveedit_jax.evaluation.aggregate import read_lines
from liveedit_jax.evaluation.batching import make_rows, measure_shapes
from liveedit_jax.evaluation.cases import BenchmarkFiles, benchmark_cases
from liveedit_jax.evaluation.engine import Schedule
from liveedit_jax.evaluation.lifelong import evaluate
from liveedit_jax.evaluation.released import write_released
from liveedit_jax.evaluation.run import RunSpec, run
from liveedit_jax.report.compare import load_run
from liveedit_jax.report.gallery import gallery, pick_failures
from liveedit_jax.report.seeds import summarise, write_summary
from liveedit_jax.types import Role

ROWS_N = 6
PLACES = {
    "evqa": ("vqa/vqa_eval.json", "images"),
    "eic": ("caption/caption_eval_edit.json", "images"),
    "vlkeb": ("eval.json", "mmkb_images"),
}


def row(i):
    return {
        "src": f"What is sign {i}?",
        "rephrase": f'"What is sign {i}?"\n\nRewritten:\n"Which sign is number {i}?"',
        "pred": "no",
        "alt": ("red tin\n", "blue")[i % 2],
        "image": f"signs/{i}.png",
        "image_rephrase": f"signs_other/{i}.jpg",
        "loc": "nq question: who made sign one",
        "loc_ans": "sharp tiny",
        "m_loc": "signs/far.png",
        "m_loc_q": "Is it round?",
        "m_loc_a": "no",
    }


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
    """All three benchmarks' files, with drawn pictures."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    rows = [row(i) for i in range(ROWS_N)]
    for file, pictures in PLACES.values():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(rows))
        for name in {row[k] for row in rows for k in ("image", "image_rephrase", "m_loc")}:
            (folder / pictures / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(folder / pictures / name)
    return folder


@pytest.fixture(scope="module")
def files(manual_dir, tmp_path_factory):
    return BenchmarkFiles(str(manual_dir), str(tmp_path_factory.mktemp("prepared")))


def cases(name, files, seed=None, n=None):
    with pytest.warns(UserWarning, match=f"{ROWS_N}"):  # not as many as were published
        return benchmark_cases(name, "eval", seed, n, files).cases


SAID = {  # by hand, from the released evaluation's rules
    "evqa": {
        "reliability": "What is sign 1? The answer is:",
        "text_generality": '"What is sign 1?"\n\nRewritten:\n"Which sign is number 1?"'
        " The answer is:",
        "image_generality": "What is sign 1? The answer is:",
        "text_locality": "nq question: who made sign one?",
        "image_locality": "Is it round? The answer is:",
    },
}  # fmt: skip
SAID["eic"] = SAID["vlkeb"] = SAID["evqa"] | {
    "reliability": "What is sign 1?",
    "text_generality": '"What is sign 1?"\n\nRewritten:\n"Which sign is number 1?"',
    "image_generality": "What is sign 1?",
}


@pytest.mark.parametrize("name", list(PLACES))
def test_prompts_and_pictures_are_the_protocols(name, files, manual_dir):
    found = cases(name, files)
    assert len(found) == ROWS_N and set(PROMPTS) == {*PLACES, "mojiedit"}
    probes = {probe.metric: probe for probe in found[1].probes}
    assert {kind: probe.prompt for kind, probe in probes.items()} == SAID[name]
    assert probes["reliability"].target == "blue"
    assert found[0].edit.target == "red tin\n"  # nothing is stripped
    shown = {kind: probe.file for kind, probe in probes.items()}
    assert shown["text_locality"] is None and shown["image_locality"] == "signs/far.png"
    assert shown["text_generality"] == "signs/1.png"
    assert shown["image_generality"] == "signs_other/1.jpg"
    path = manual_dir / PLACES[name][1] / "signs/1.png"
    assert probes["reliability"].image == path


def test_labels_are_the_targets_tokens_after_one_space(files, parts):
    found = cases("evqa", files)
    probes = list(found[1].probes)
    shapes = measure_shapes(parts.tokenizer, parts.backbone.cfg, found, 4)
    rows = make_rows(parts.tokenizer, parts.backbone.cfg, probes, shapes)
    for i, probe in enumerate(probes):
        assert parts.tokenizer.decode(rows.answer[i]) == f" {probe.target}"
        said = parts.tokenizer.decode(rows.token[i][rows.role[i] == Role.PROMPT])
        assert said == ("\n" if probe.image is not None else "") + probe.prompt
        first = int((rows.role[i] == Role.ANSWER).argmax())
        assert rows.position[i, 0] == first - 1  # the last prompt token predicts the answer


def test_a_seed_shuffles_as_the_released_evaluation_does(files):
    plain = [case.entity for case in cases("vlkeb", files)]
    assert plain == [f"signs/{i}.png" for i in range(ROWS_N)]
    order = list(range(ROWS_N))
    np.random.default_rng(7).shuffle(order)
    shuffled = [case.entity for case in cases("vlkeb", files, seed=7, n=4)]
    assert shuffled == [plain[i] for i in order[:4]]
    with pytest.raises(ValueError, match="9 cases: vlkeb's eval split has 6 here"):
        cases("vlkeb", files, n=9)


SCHEDULE = Schedule((1, 4), batch_n=8, block_n=4, cases_n=ROWS_N)


@pytest.fixture(scope="module")
def done(files, parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "one"
    settings = {"config": "small", "seed": 7, "commit": "none"}
    return out, evaluate(parts, cases("evqa", files, 7), SCHEDULE, settings, out, time.time())


def timeless(results):
    drop = {"seconds", "peak_rss_gb", "compile_n", "edit_ms", "add_ms", "query_ms"}
    if isinstance(results, dict):
        return {k: timeless(v) for k, v in results.items() if k not in drop}
    return [timeless(v) for v in results] if isinstance(results, list) else results


def test_the_same_seed_gives_the_same_files(done, files, parts, tmp_path, monkeypatch):
    out, results = done
    monkeypatch.setattr(subject, "READERS_N", 7)  # whoever reads
    settings = {"config": "small", "seed": 7, "commit": "none"}
    again = evaluate(parts, cases("evqa", files, 7), SCHEDULE, settings, tmp_path, time.time())
    assert json.dumps(timeless(again)) == json.dumps(timeless(results))
    for name in ("cases.jsonl", "routes.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    assert [mark["cases"] for mark in results["marks"]] == [6, 4]  # the tail of two is dropped
    line = next(read_lines(out / "cases.jsonl"))
    assert line["image"].startswith("signs/") and not line["image"].startswith("/")


def test_results_in_the_released_layout(done, parts, tmp_path):
    out, results = done
    write_released(out, tmp_path, parts.tokenizer.decode, seed=7)
    one = json.loads((tmp_path / "single_edit" / "seed_7_results.json").read_text())
    four = json.loads((tmp_path / "sequential_edit_4" / "seed_7_results.json").read_text())
    assert len(one) == 6 and [len(chunk) for chunk in four] == [4]
    mean = json.loads((tmp_path / "sequential_edit_4" / "seed_7_mean_results.json").read_text())
    total, mark = mean["total_mean"], results["marks"][1]
    assert total["total_edit_n"] == 4 and mean["split_mean"][0]["sequential_edit_n"] == 4
    for group, name, figure in (
        ("generality", "text_rephrase", "text_generality"),
        ("generality", "image_rephrase", "image_generality"),
        ("locality", "text_loc", "text_locality"),
        ("locality", "image_loc", "image_locality"),
    ):
        assert 100 * total[group][name]["acc"] == pytest.approx(mark[figure])
    assert 100 * total["reliability"]["acc"] == pytest.approx(mark["reliability"])
    assert total["reliability"]["edit_time"] == pytest.approx(mark["edit_ms"] / 1000)
    record = four[0][0]
    assert set(record) == {"reliability", "generality", "locality"}
    assert {"prompt", "image", "target", "predict_after_edit", "acc"} <= set(
        record["locality"]["image_loc"][0]
    )
    assert "predict_before_edit" in record["locality"]["text_loc"][0]


def test_means_and_deviations_over_seeds(done, tmp_path):
    _, results = done
    other = json.loads(json.dumps(results))
    other["marks"][0]["average"] += 2.0
    found = summarise([results, other])[0]
    assert found["edits"] == 1 and found["runs"] == 2
    assert found["average"].mean == pytest.approx(results["marks"][0]["average"] + 1)
    assert found["average"].std == pytest.approx(2**0.5)
    assert summarise([results])[1]["reliability"].std is None
    write_summary([results, other], tmp_path / "summary.json")
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["seeds"] == [7, 7]
    assert written["marks"][0]["average"]["std"] == pytest.approx(2**0.5)
    other["marks"] = other["marks"][:1]
    with pytest.raises(ValueError, match="different marks"):
        summarise([results, other])


def test_what_cannot_be_evaluated_is_refused(files, tmp_path, monkeypatch, capsys):
    model = SimpleNamespace(config=RunSpec().preset, backbone_sha256="", editor_sha256="")
    monkeypatch.setattr("liveedit_jax.evaluation.run.load_model", lambda *_: model)
    with pytest.raises(ValueError, match="give --manual-dir FOLDER"):
        run(RunSpec(dataset="evqa"), tmp_path, 0.0)
    with pytest.raises(ValueError, match="mojiedit is made, not read"):
        run(RunSpec(files=files), tmp_path, 0.0)
    with pytest.raises(ValueError, match="1000 edits: evqa has 6 cases here"), pytest.warns():
        run(RunSpec(dataset="evqa", files=files), tmp_path, 0.0)
    monkeypatch.setattr(
        "sys.argv", ["x", "--manual-dir", "nowhere", "--dataset", "eic", "--out", "x"]
    )
    assert lifelong_eval.main() == 2
    assert "caption_eval_edit.json" in capsys.readouterr().err


def test_portability_is_asked_on_the_edited_picture(manual_dir, tmp_path, parts):
    more = {"port_edit_q": "Whose?", "port_edit_a": "His", "port_q": "Who?", "port_a": "loud"}
    rows = [row(i) | {"port_new": [more]} for i in range(ROWS_N)]
    (manual_dir / "eval_edit_onehop.json").write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match=f"{ROWS_N}"):
        stream = benchmark_cases(
            "vlkeb", "onehop", None, None, BenchmarkFiles(str(manual_dir), str(tmp_path))
        )
    found = stream.cases
    probe = found[2].probes_of("portability_1")[0]
    assert (probe.prompt, probe.target, probe.file) == ("Who?", "loud", "signs/2.png")
    settings = {
        **{"config": "small", "dataset": "vlkeb", "backbone": None, "editor": None, "model": {}},
        **{"split": "onehop", "seed": None, "marks": SCHEDULE.marks, "commit": "none"},
    }
    out, begin = tmp_path / "run", time.time()
    results = evaluate(parts, found, SCHEDULE, settings, out, begin, stream.pictures)
    lines = [
        line
        for line in read_lines(tmp_path / "run" / "cases.jsonl")
        if line["probe"] == "portability_1" and line["mark"] == 1
    ]
    assert len(lines) == ROWS_N
    right = [
        sum(a == b for a, b in zip(line["after_ids"], line["target_ids"], strict=True))
        / len(line["target_ids"])
        for line in lines
    ]  # compared with the answer, not with what was said before
    mark = results["marks"][0]
    assert mark["portability"] == {"portability_1": pytest.approx(100 * sum(right) / ROWS_N)}
    assert "portability_1" in mark["exact_match"] and "portability_2" not in mark["exact_match"]
    failures = pick_failures([load_run(out)])
    assert failures and all(failure.pictures[0][0] == "edited" for failure in failures)
    other = next(f for f in failures if f.line["probe"] == "image_generality")
    case = other.line["case"]
    edited, asked = (data for _, data in other.pictures)
    assert edited == (stream.pictures / f"signs/{case}.png").read_bytes()
    assert asked == (stream.pictures / f"signs_other/{case}.jpg").read_bytes()
    assert gallery(failures, {out: "one"}).count("<img ") == sum(len(f.pictures) for f in failures)
