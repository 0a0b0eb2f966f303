"""Measure how fast a benchmark of camera pictures is prepared and read, and its peak memory.

    python -m experiments.bench.reading [--rows 5000] [--out runs/bench_reading]

50 pictures of 12 megapixels are drawn and stored as JPEG; every row of an annotation file in
E-VQA's format names one of them (by a hard link). `load_benchmark` prepares the rows; then each
row's edited picture is read once, preprocessed as for llava-1.5-7b (336 pixels). The figures are
printed and, with --out, written to DIR/results.json. The target for 5,000 rows on 2 cores is 60
pictures per second within 4 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.data.annotations import BENCHMARKS
from liveedit_jax.data.benchmarks import load_benchmark
from liveedit_jax.data.reading import read_pictures

DRAWINGS_N = 50
SIZE = (4000, 3000)
PRESET = "llava-1.5-7b"
SPLIT = "train"
NAME = "evqa"


def draw_picture(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> Image.Image:
    """Draw soft colours with some grain, and shapes on them."""
    soft = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    soft = Image.fromarray(soft).resize((size[0] // 100, size[1] // 100), Image.Resampling.BOX)
    grain = rng.integers(0, 256, (size[1] // 2, size[0] // 2, 3), np.uint8)
    picture = Image.blend(soft.resize(size), Image.fromarray(grain).resize(size), 0.06)
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y = (int(rng.integers(0, n)) for n in size)
        w, h = (int(rng.integers(n // 40, n // 5)) for n in size)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    return picture


def make_row(i: int) -> dict[str, str]:
    """Make one row in E-VQA's format; all its pictures are the same one."""
    return {
        "src": f"How many shapes are on card {i}?",
        "pred": "no",
        "rephrase": f"What is the number of shapes on card {i}?",
        "alt": str(i % 60),
        "image": f"val2014/card_{i:06d}.jpg",
        "image_rephrase": f"val2014/card_{i:06d}.jpg",
        "loc": f"nq question: which number comes after {i}",
        "loc_ans": str(i + 1),
        "m_loc": f"val2014/card_{i:06d}.jpg",
        "m_loc_q": "What is on this card?",
        "m_loc_a": "shapes",
    }


def make_benchmark(folder: Path, rows_n: int, seed: int) -> float:
    """Write the pictures and the annotation file; returns the mean size of a picture in MB."""
    benchmark = BENCHMARKS[NAME]
    named = folder / benchmark.pictures / "val2014"
    named.mkdir(parents=True)
    drawings = []
    for i in range(min(DRAWINGS_N, rows_n)):
        file = named / f"drawing_{i:02d}.jpg"
        draw_picture(np.random.default_rng([seed, i])).save(file, quality=88)
        drawings.append(file)
    for i in range(rows_n):
        os.link(drawings[i % len(drawings)], named / f"card_{i:06d}.jpg")
    file = folder / benchmark.splits[SPLIT].file
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([make_row(i) for i in range(rows_n)]))
    return sum(file.stat().st_size for file in drawings) / len(drawings) / 1e6


def peak_gb() -> float:
    """Return the peak resident memory of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure(folder: Path, workers_n: int) -> dict[str, float]:
    """Prepare and read the benchmark in `folder`; returns times, rates and peak memory."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the count is not the published one
        source = load_benchmark(NAME, SPLIT, manual_dir=folder, data_dir=folder / "tfds")
    built = time.perf_counter()
    cpu = time.process_time()
    read_n = sum(
        1 for _ in read_pictures(BACKBONES[PRESET], (record.image for record in source), workers_n)
    )
    seconds, cpu = time.perf_counter() - built, time.process_time() - cpu
    return {
        "rows": len(source),
        "build_s": round(built - start, 2),
        "read_s": round(seconds, 2),
        "images_per_s": round(read_n / seconds, 1),
        "images_per_cpu_s": round(read_n / cpu, 1),
        "peak_rss_gb": round(peak_gb(), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2, help="threads that decode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for results.json")
    arguments = parser.parse_args()
    if arguments.rows < 1:
        parser.error("--rows has to be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        size = make_benchmark(Path(folder), arguments.rows, arguments.seed)
        found = measure(Path(folder), arguments.workers)
    found |= {
        "preset": PRESET,
        "jpeg_mb": round(size, 2),
        "workers": arguments.workers,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "results.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
