"""Time edits and queries against the size of the repository, ours and a textbook's in PyTorch.

    python -m experiments.bench.repository --width 4096 --sizes 1000,10000,100000 --out runs/scale

Widths: 192 (`tiny`), 2560 (BLIP2), 4096 (LLaVA). The editor has random weights and the paper's
sizes, M 1024, R 4, E 4. Up to 10,000 experts everything is float32, and the textbook
(experiments/reference/textbook.py) runs in the same run on the same weights; outputs are compared.
Above 10,000 experts bodies are stored in 8 bits, above 100,000 keys as well. Adding an edit is
timed in turn with adding one to 1,000 experts in the same storage.
DIR/results.json holds all medians in seconds; ratios are textbook over ours.
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from tqdm import tqdm

from experiments.bench import repository_measure as measure
from experiments.bench.repository_cases import (
    CFG,
    QUERIES_N,
    VISION_N,
    Model,
    fill_repository,
    miss_and_hit_keys,
    random_model,
    with_hits,
)
from experiments.bench.repository_figure import draw_costs
from experiments.reference.textbook import Pool, Textbook, tensors
from liveedit_jax.config import Precision, StorageConfig
from liveedit_jax.evaluation.compiles import count_compiles
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.types import Repository

TEXTBOOK_N = 10_000  # up to so many experts the textbook runs, and bodies are float32
KEYS_N = 100_000  # up to so many, keys are float32
SMALL_N = 1_000
HITS = {"0": 0, "10": 10, "all": None}
ROOM = 8


def choose_storage(n: int) -> StorageConfig:
    """Choose how n experts are stored."""
    keys = Precision.F32 if n <= KEYS_N else Precision.INT8
    return StorageConfig(keys=keys, bodies=Precision.F32 if n <= TEXTBOOK_N else Precision.INT8)


def measure_ours(model: Model, n: int, repeats: int, bar: tqdm) -> tuple[dict, Repository]:
    """Measure ours at n experts; also returns the repository."""
    storage = choose_storage(n)
    with count_compiles() as compiles:
        repo = fill_repository(model, n, 0, ROOM, storage)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(repo))
        found = {
            "experts": n,
            "keys": storage.keys.value,
            "bodies": storage.bodies.value,
            "bytes_per_expert": size / repo.born.shape[0],
        }
        small = fill_repository(model, SMALL_N, 0, ROOM, storage)
        [repo, _], times = measure.time_adds(model, [repo, small], 30 * repeats)
        del small, _
        found["add_s"], found["add_to_1k_s"] = times
        found |= measure.bandwidth(model, repo, repeats)
        pull = jnp.asarray(miss_and_hit_keys(model.query))
        for name, hit_n in HITS.items():
            repo = with_hits(repo, pull, n if hit_n is None else hit_n)
            for b in (1, QUERIES_N):
                every = hit_n is None
                found[f"query_hit_{name}_b{b}_s"] = measure.time_queries(
                    model, repo, b, every, repeats
                )
                bar.update()
            if name == "10":
                for b in (1, QUERIES_N):
                    found[f"route_b{b}_s"] = measure.time_routing(model, repo, b, repeats)
    return found | {"compiles": compiles.n}, repo


def relative_difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest absolute difference, relative to the largest absolute entry."""
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())


def measure_textbook(
    model: Model, book: Textbook, repo: Repository, n: int, samples_n: int, bar: tqdm
) -> dict:
    """Measure the textbook at n experts, and the largest difference of outputs from ours."""
    pool, pull = measure.torch_pool(repo, n), jnp.asarray(miss_and_hit_keys(model.query))
    samples = [measure.sample_of(model, i, False) for i in range(samples_n)]
    found: dict = {"append_s": measure.time_appends(book, pool, model, n)}
    bar.update()
    for name, hit_n in HITS.items():
        repo = with_hits(repo, pull, n if hit_n is None else hit_n)
        keys = torch.from_numpy(np.array(repo.vision_key.value[:n]))
        pool = Pool(pool.text_key, keys.unflatten(-1, pool.text_key.shape[1:]), pool.down, pool.up)
        plain = measure.plain_bytes(model, n if hit_n is None else hit_n)
        timed_n = min(samples_n, 2) if hit_n is None else samples_n
        found[f"query_hit_{name}"] = measure.time_textbook(
            lambda i, pool=pool: book.query(pool, *samples[i]), timed_n, plain
        )
        mine, routed = measure.run_queries(model, repo, hit_n is None, timed_n)
        for i in range(timed_n):
            hit, weight = book.route(pool, *samples[i])
            if int(hit.sum()) != (n if hit_n is None else hit_n):
                raise RuntimeError(f"{int(hit.sum())} experts were hit, not {hit_n}")
            if hit_n is None:  # over our top 64 experts, with weights normalised over all hits
                states, slot = torch.cat(samples[i]), torch.from_numpy(routed.slot[i]).long()
                added = book.residual(pool.down[slot], pool.up[slot], weight[slot], states)
                theirs = (states + added).numpy()
            else:
                theirs = book.query(pool, *samples[i]).numpy()
            error = relative_difference(mine[i], theirs)
            found["error"] = max(found.get("error", 0.0), error)
        if name == "10":
            found["route"] = measure.time_textbook(
                lambda i, pool=pool: book.route(pool, *samples[i]), samples_n
            )
        bar.update()
    return found


def measure_generation(model: Model, book: Textbook, repeats: int, samples_n: int) -> dict:
    """Time the generation of experts, ours and the textbook's."""
    edits = [measure.sample_of(model, i, True) for i in range(samples_n)]
    theirs = book.make_expert(*edits[0])
    mine = measure.expert_of(model, 0)
    error = max(
        relative_difference(np.asarray(getattr(mine, name)).reshape(value.shape), value.numpy())
        for name, value in vars(theirs).items()
    )
    return {
        "ours_b1_s": measure.time_generation(model, 1, repeats),
        "ours_b32_s": measure.time_generation(model, QUERIES_N, repeats),
        "textbook": measure.time_textbook(lambda i: book.make_expert(*edits[i]), samples_n),
        "error": error,
    }


def compute_ratios(found: dict) -> dict[str, float | None]:
    """Compute textbook time over ours for one edit or query; None where a size was not run."""
    made, each = found["generate"], QUERIES_N
    best = made["textbook"]["best_s"]
    out: dict[str, float | None] = {
        "generate_ratio_b1": best / made["ours_b1_s"],
        "generate_ratio_b32": best / (made["ours_b32_s"] / each),
    }
    own, theirs = found["ours"].get("10000"), found["textbook"].get("10000")
    names = ("add_ratio_10k", "route_ratio_10k_b32", "query_ratio_10k_hit10_b32")
    out |= dict.fromkeys((*names, "query_ratio_10k_all_b32"))
    if own and theirs:
        out["add_ratio_10k"] = theirs["append_s"] / own["add_s"]
        out["route_ratio_10k_b32"] = theirs["route"]["best_s"] / (own["route_b32_s"] / each)
        for key, name in (("hit10", "query_hit_10"), ("all", "query_hit_all")):
            mine = own[f"{name}_b32_s"] / each
            out[f"query_ratio_10k_{key}_b32"] = theirs[name]["best_s"] / mine
    large = found["ours"].get("100000")
    growth = large and large["add_s"] / large["add_to_1k_s"]
    return out | {"bandwidth_share_100k": large and large["share"], "add_growth_100k": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=4096, choices=sorted(VISION_N))
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of experts")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--samples", type=int, default=5, help="that the textbook is timed on")
    args = parser.parse_args()
    sizes = sorted(int(n) for n in args.sizes.split(","))
    if sizes[0] < 100:
        parser.error(f"--sizes {args.sizes}: 100 experts or more")
    model = random_model(args.width, args.seed)
    book = Textbook(CFG, tensors(model.params))
    found: dict = {
        "width": args.width,
        "seed": args.seed,
        "commit": git_commit(),
        "editor": {"M": CFG.module_width, "R": CFG.rank, "E": CFG.queries_n},
        "tokens": {"vision": model.vision_n, "query": model.query_states[0].shape[1]},
        "ours": {},
        "textbook": {},
    }
    steps = sum(6 + 4 * (n <= TEXTBOOK_N) for n in sizes)
    with torch.inference_mode(), tqdm(total=steps, desc="scale", unit="case") as bar:
        found["generate"] = measure_generation(model, book, args.repeats, args.samples)
        for n in sizes:
            found["ours"][str(n)], repo = measure_ours(model, n, args.repeats, bar)
            if n <= TEXTBOOK_N:
                found["textbook"][str(n)] = measure_textbook(
                    model, book, repo, n, args.samples, bar
                )
            del repo
    found = compute_ratios(found) | found
    found["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_costs(found, args.out / "costs.png")
    print(
        json.dumps(
            {k: v for k, v in found.items() if "_ratio_" in k or k.endswith("_100k")}, indent=1
        )
    )


if __name__ == "__main__":
    main()
