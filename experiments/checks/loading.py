"""Load a full-size checkpoint through the conversion table and report the peak memory.

    python -m experiments.checks.loading --model llava-1.5-7b --out runs/loading

Writes safetensors files with the original's names and shapes in bfloat16 (sparse files: the disk
holds only headers; listing the names needs torch), and converts them into arrays of their final
dtype and sharding. Exits with 1 if the peak exceeds the parameters + the largest leaf + 1 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import sys
import time
from pathlib import Path

import jax

from experiments.reference.originals import torch_llava
from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.backbones.weights import convert_weights, open_folder

SHARD = 5_000_000_000  # bytes
MODELS = ("llava-1.5-13b", "llava-1.5-7b")


def original_shapes(cfg: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """List the names and shapes of the original's state dict."""
    import torch

    with torch.device("meta"):
        net = torch_llava(cfg, cfg.decoder.vocab_n - 1)
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def write_sparse(shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Write bfloat16 zeros of these shapes as shards whose data are holes of sparse files."""
    shards: list[dict] = [{}]
    size = 0
    for name, shape in shapes.items():
        n = 2 * math.prod(shape)
        if size + n > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = {"dtype": "BF16", "shape": shape, "data_offsets": [size, size + n]}
        size += n
    for i, header in enumerate(shards):
        text = json.dumps(header).encode()
        with (folder / f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + max(e["data_offsets"][1] for e in header.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="llava-1.5-7b")
    parser.add_argument("--out", type=Path, default=Path("runs/loading"))
    args = parser.parse_args()
    cfg, folder = BACKBONES[args.model], args.out / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        write_sparse(original_shapes(cfg), folder)
        import ml_dtypes

        begin = time.time()
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        weights = convert_weights(cfg, open_folder(cfg, folder), ml_dtypes.bfloat16, place)
        jax.block_until_ready(weights)
        seconds = time.time() - begin
    finally:
        shutil.rmtree(folder)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "model": args.model,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights)),
        "resident_gb": sum(sizes) / 1e9,
        "largest_leaf_gb": max(sizes) / 1e9,
        "before_gb": before / 1e9,
        "peak_rss_gb": peak / 1e9,
        "limit_gb": (sum(sizes) + max(sizes)) / 1e9 + 1,
        "seconds": seconds,
    }
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    sys.exit(found["peak_rss_gb"] > found["limit_gb"])


if __name__ == "__main__":
    main()
