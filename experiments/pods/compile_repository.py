"""Compile a repository's add and query for a TPU slice ahead of time; prints the bytes per chip.

    make setup EXTRAS=tpu
    python -m experiments.pods.compile_repository --experts 1000000 --topology v5e:4x4 --bodies int8

Rows are split over all chips of the topology. Nothing is run: libtpu compiles ahead of time and
reports what every chip would hold. Exits with 1 if that is more than a chip has.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.pods.compile_check import devices_of, memory_of
from liveedit_jax.scaling.chips import chip_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=640)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--keys", default="float32", help="float32, bfloat16 or int8")
    parser.add_argument("--bodies", default="int8", help="float32, bfloat16 or int8")
    parser.add_argument("--out", type=Path, default=Path("runs/compile_repository"))
    args = parser.parse_args()
    devices, chip = devices_of(args.topology), chip_of(args.topology)
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from liveedit_jax.config import Precision, StorageConfig
    from liveedit_jax.editor import liveedit, repository
    from liveedit_jax.presets import PAPER_EDITOR
    from liveedit_jax.scaling import repository as sharded
    from liveedit_jax.types import Expert, Query

    mesh = Mesh(np.array(devices), (sharded.EXPERT,))
    chips_n = mesh.size
    capacity = -(-args.experts // chips_n) * chips_n
    cfg = replace(PAPER_EDITOR, top_k=64)
    storage = StorageConfig(keys=Precision(args.keys), bodies=Precision(args.bodies))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def of(shape, dtype=jnp.float32, sharding=everywhere):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    empty = jax.eval_shape(partial(repository.init_repository, cfg, args.width, capacity, storage))
    repo = jax.tree.map(
        lambda leaf, place: of(leaf.shape, leaf.dtype, place),
        empty,
        sharded.row_shardings(mesh, empty),
    )
    b, body = args.batch, (cfg.rank, args.width)
    keys = of((b, cfg.text_key_n)), of((b, cfg.vision_key_n))
    expert = Expert(*keys, of((b, *body)), of((b, *body)))
    query = Query(*keys, of((b,)))
    norm = {"scale": of((args.width,)), "bias": of((args.width,))}
    editor = liveedit.PreparedEditor(None, None, None, None, norm)
    hidden = of((b, args.tokens, args.width))
    programs = {
        "add": jax.jit(partial(sharded.add_edits, mesh), donate_argnums=0).lower(
            repo, expert, of((b,), jnp.int32), of((b,), jnp.bool_)
        ),
        "query": jax.jit(partial(sharded.route_and_apply, mesh, cfg)).lower(
            editor, repo, query, hidden, of((b, args.tokens), jnp.int8)
        ),
    }
    result = vars(args) | {"out": str(args.out), "chips": chips_n}
    fits = True
    for name, lowered in programs.items():
        result[name] = memory_of(lowered.compile(), chip)
        fits &= result[name]["a_chip_gb"] <= chip.hbm_gb
    result["fits"] = fits
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if not fits:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
