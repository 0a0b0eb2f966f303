"""Check the editor's modules and its routing, on stored states."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reference.golden.case import MODULE_TOLERANCE, Arrays, GoldenCase
from experiments.reference.golden.rows import states
from liveedit_jax.editor.repository import add_edits, init_repository
from liveedit_jax.types import Expert, Query, Repository, Role, StoredRows

EXPERT = (("eqr", "text_key"), ("evr", "vision_key"), ("moe_c", "down"), ("moe_r", "up"))
KINDS = ("natural", "none", "all", "mixed")


def check_modules(case: GoldenCase) -> None:
    """Check extractors, sentinel and generators on random states."""
    stored, run = case.arrays("modules"), case.functions
    for a in range(stored.count("q{}/", case.least_n(3))):
        q = f"q{a}"
        vision = (Role.VISION, stored[f"{q}/vision_reps"])
        prompt = (Role.PROMPT, stored[f"{q}/query_reps"])
        pre = (Role.PRE, stored[f"{q}/pre_vision_reps"])
        for name, ours in run.features_of(*states(pre, vision, prompt)).items():
            case.compare(f"{q}/{name}", ours, stored[f"{q}/{name}"], MODULE_TOLERANCE)
        for b in range(stored.count(f"{q}/a{{}}/", case.least_n(3))):
            answer = (Role.ANSWER, stored[f"{q}/a{b}/ans_reps"])
            expert = run.expert(*states(pre, vision, prompt, answer))
            for name, leaf in EXPERT:
                item = f"{q}/a{b}/{name}"
                compare_flat(case, stored, item, getattr(expert, leaf))


def compare_flat(case: GoldenCase, stored: Arrays, item: str, ours) -> None:
    """Compare with a stored array whose last axes are flattened in ours."""
    want = stored[item]
    if ours.size != want.size:
        case.fail(item, f"shape {ours.shape}, stored {want.shape}")
        return
    case.compare(item, ours.reshape(want.shape), want, MODULE_TOLERANCE)


def compare_routed(
    case: GoldenCase, stored: Arrays, item: str, repo: Repository, query: Query, hidden, role
) -> jax.Array:
    """Compare everything stored of one routed query; returns our residual."""
    found = case.functions.route_query(repo, query, hidden, role)
    hit = np.asarray(found["hit"][0])
    for name, ours in (
        ("vis_sim", found["vis_sim"]),
        ("vis_sim_prot", found["vis_sim_prot"]),
        ("retrieval_map", hit),
        ("fuse_coe", np.asarray(found["weight"])[:, hit]),
        ("residual", found["residual"]),
    ):
        case.compare(f"{item}/{name}", ours, stored[f"{item}/{name}"], MODULE_TOLERANCE)
    return found["residual"]


def _pool(case: GoldenCase, stored: Arrays) -> Expert:
    """Return the pool: our experts of the stored inputs, or the stored experts in a part."""
    cfg, n = case.editor, stored["pool/eqr"].shape[0]
    flat = stored["pool/eqr"].reshape(n, cfg.queries_n * cfg.module_width)
    if case.is_part:  # without the pool's inputs, the stored experts; queries bring vision keys
        return Expert(flat, flat, stored["pool/moe_cs"], stored["pool/moe_rs"])
    made_n = stored.count("pool_in/{}/", n)
    case.compare("pool_in", np.array(made_n), np.array(n), 0)
    made = []
    for i in range(made_n):
        parts = [
            (role, stored[f"pool_in/{i}/{name}"])
            for role, name in (
                (Role.VISION, "vision_reps"),
                (Role.PROMPT, "query_reps"),
                (Role.ANSWER, "ans_reps"),
            )
        ]
        made.append(case.functions.expert(*states(*parts)))
    pool = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)
    for name, ours in (("eqr", pool.text_key), ("moe_cs", pool.down), ("moe_rs", pool.up)):
        item = f"pool/{name}"
        want = stored[item][: len(ours)]
        case.compare(item, ours.reshape(want.shape), want, MODULE_TOLERANCE)
    return pool


def check_routing(case: GoldenCase) -> None:
    """Check the routing of stored queries over pools with four kinds of vision keys."""
    stored, run = case.arrays("routing"), case.functions
    pool = _pool(case, stored)
    n = pool.down.shape[0]
    empty = init_repository(case.editor, case.backbone.cfg.width, n)
    repo, _ = add_edits(empty, pool, jnp.arange(n), jnp.ones(n, bool))
    for a in range(stored.count("query/{}/", case.least_n(3))):
        q = f"query/{a}"
        vision, prompt = stored[f"{q}/vision_reps"], stored[f"{q}/query_reps"]
        query = run.query(*states((Role.VISION, vision), (Role.PROMPT, prompt)))
        full = stored[f"{q}/full_reps"]
        role = np.full(full.shape[:2], Role.PROMPT, np.int8)
        both = np.concatenate([vision, prompt], axis=1)
        begin = [
            i
            for i in range(full.shape[1] - both.shape[1] + 1)
            if np.array_equal(full[:, i : i + both.shape[1]], both)
        ]
        case.check(f"{q}/full_reps", len(begin) == 1, "contains the vision and query states")
        found = run.route_query(repo, query, full, role)
        for name in ("softmax", "sigmoid"):
            item = f"{q}/coe_full_pool/{name}"
            case.compare(item, found[name], stored[item], MODULE_TOLERANCE)
        for kind in KINDS:
            if case.is_part and f"{q}/{kind}/evr_pool" not in stored:
                continue
            keys = stored[f"{q}/{kind}/evr_pool"]
            if kind == "natural" and not case.is_part:
                compare_flat(case, stored, f"{q}/natural/evr_pool", pool.vision_key)
            state = repo.replace(
                vision_key=StoredRows(jnp.asarray(keys.reshape(repo.vision_key.value.shape)))
            )
            compare_routed(case, stored, f"{q}/{kind}", state, query, full, role)
