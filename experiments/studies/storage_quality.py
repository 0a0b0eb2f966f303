"""Measure what narrow storage does to the routing and the metrics of a trained editor.

    python -m experiments.studies.storage_quality --config tiny --edits 10000 --out runs/storage

The same experts are stored in float32, bfloat16 and 8 bits, and the same probes are asked of each
under teacher forcing. Routing agrees on a query if it hits the same experts, the strongest one is
the same, and the L1 distance of all weights is at most 0.01.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, Precision, StorageConfig
from liveedit_jax.editor import repository
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.editor.routing import hit_weights
from liveedit_jax.evaluation.blocks import ask_teacher_forced, make_block
from liveedit_jax.evaluation.cases import stream_cases
from liveedit_jax.evaluation.metrics import average_members
from liveedit_jax.evaluation.probes import Case
from liveedit_jax.evaluation.quick import row_accuracies
from liveedit_jax.evaluation.run import git_commit
from liveedit_jax.evaluation.subject import ModelParts, Subject, encode, prepare_requests
from liveedit_jax.model_io.model import load_model
from liveedit_jax.types import Expert, Query, Repository

BLOCK_N, BATCH_N, LEAST_L1 = 256, 32, 0.01
_add = jax.jit(repository.add_edits, donate_argnums=0)


@partial(jax.jit, static_argnums=0)
def _agree(cfg: EditorConfig, wide: Repository, narrow: Repository, query: Query):
    """Compare the routing of queries in two repositories.

    Returns, per query: the same hits, the same strongest expert, the L1 distance of all weights,
    and whether the first repository has a hit.
    """
    (hit, weight), (other, weights) = (hit_weights(cfg, r, query) for r in (wide, narrow))
    same = (hit == other).all(-1)
    first = weight.argmax(-1) == weights.argmax(-1)
    return same, first, jnp.abs(weight - weights).sum(-1), hit.any(-1)


def store_experts(subject: Subject, expert: Expert, n: int, precision: Precision) -> Repository:
    """Store all experts in one repository."""
    storage = StorageConfig(keys=precision, bodies=precision)
    repo = repository.init_repository(subject.editor.cfg, subject.backbone.cfg.width, n, storage)
    for at in range(0, n, BLOCK_N):
        rows = np.minimum(np.arange(at, at + BLOCK_N), n - 1)
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], expert)
        repo, _ = _add(repo, part, rows.astype(np.int32), np.arange(at, at + BLOCK_N) < n)
    return repo


def agreement(subject: Subject, wide: Repository, narrow: Repository, query: Query) -> np.ndarray:
    """Apply `_agree` to all queries in batches, float[X, 4]."""
    parts = []
    for at in range(0, len(query.threshold), BATCH_N):
        rows = np.minimum(np.arange(at, at + BATCH_N), len(query.threshold) - 1)
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], query)
        parts.append(np.stack(_agree(subject.editor.cfg, wide, narrow, part), 1).astype(float))
    return np.concatenate(parts)[: len(query.threshold)]


def summarise(rows: np.ndarray) -> dict[str, float]:
    """Compute shares of queries in percent."""
    same, first, distance, hit = rows.T
    agrees = (same > 0) & (first > 0) & (distance <= LEAST_L1)
    return {
        "agreement": 100 * float(agrees.mean()),
        "agreement_where_any_is_hit": 100 * float(agrees[hit > 0].mean()),
        "same_hits": 100 * float(same.mean()),
        "same_first": 100 * float(first.mean()),
        "median_l1_where_any_is_hit": float(np.median(distance[hit > 0])),
    }


def make_experts(subject: Subject, cases: Sequence[Case], bar: tqdm) -> Expert:
    """Generate the experts (numpy) of all edits."""
    made = []
    for at in range(0, len(cases), BLOCK_N):
        asked = [case.edit for case in cases[at : at + BLOCK_N]]
        made += [expert for expert, _, _ in prepare_requests(subject, asked)]
        bar.update(len(asked))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *made)


def measure(
    subject: Subject, cases: Sequence[Case], repos: dict[str, Repository], bar: tqdm
) -> dict[str, dict[str, float]]:
    """Measure metrics and agreement by storage; the first of `repos` is the reference."""
    scores: dict = {name: defaultdict(list) for name in repos}
    agreed: dict = {name: [] for name in repos}
    wide = next(iter(repos.values()))
    for first in range(0, len(cases), BLOCK_N):
        block = make_block(cases[first : first + BLOCK_N], first)
        encoded, rows = encode(subject, block.probes), np.arange(len(block.probes))
        query = jax.tree.map(lambda leaf, shown=block.has_picture: leaf[shown], encoded.query)
        for name, repo in repos.items():
            now = np.full(len(rows), int(repo.clock))
            answers, _ = ask_teacher_forced(subject, repo, block, encoded, rows, now)
            for kind, value in row_accuracies(block, encoded, answers.after):
                scores[name][kind].append(value)
            agreed[name].append(agreement(subject, wide, repo, query))
        bar.update(5 * len(block.cases))
    found = {}
    for name, repo in repos.items():
        figures = {kind: 100 * float(np.mean(values)) for kind, values in scores[name].items()}
        figures["average"] = float(np.mean([figures[name] for name in average_members("average")]))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(repo)) / len(cases)
        found[name] = figures | summarise(np.concatenate(agreed[name])) | {"bytes_per_expert": size}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", help="a preset or a model folder")
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--split", default="eval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/storage"))
    args = parser.parse_args()
    model = load_model(args.config)
    backbone = Backbone(model.config.backbone)
    editor = LiveEdit(model.config.editor)
    parts = ModelParts(backbone, model.backbone, model.tokenizer, editor, model.editor)
    cases = stream_cases(args.split, args.seed, args.edits, backbone.cfg.vision.image_size)
    subject = parts.subject(cases, BATCH_N)
    with tqdm(total=6 * len(cases), desc="storage", unit_scale=True) as bar:
        expert = make_experts(subject, cases, bar)
        repos = {p.value: store_experts(subject, expert, len(cases), p) for p in Precision}
        found = measure(subject, cases, repos, bar)
    run = {"config": args.config, "edits": args.edits, "seed": args.seed, "commit": git_commit()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(run | found, indent=1) + "\n")
    print(json.dumps(run | found, indent=1))


if __name__ == "__main__":
    main()
