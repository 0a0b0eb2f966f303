"""The promises of the guides' examples; run by test_guides.py in a copy of the package."""

import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from liveedit_jax import editors
from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.weights import conversion_rules
from liveedit_jax.baselines.losses import target_loss
from liveedit_jax.baselines.table import BASELINES
from liveedit_jax.config import EditorConfig
from liveedit_jax.data import Record, load_benchmark
from liveedit_jax.editor import repository
from liveedit_jax.editor.routing import route
from liveedit_jax.evaluation import cases, metrics
from liveedit_jax.presets import preset
from liveedit_jax.types import Batch, Expert, Query

CFG = BackboneConfig(
    vision=ClipConfig(image_size=8, patch_size=4, width=16, layers_n=2, heads_n=2, mlp_width=16),
    decoder=LlamaConfig(
        vocab_n=50, width=16, layers_n=3, heads_n=2, kv_heads_n=1, head_width=8, mlp_width=24
    ),
    edit_layer=1,
)
ROLE = np.asarray([[1, 2, 2, 2, 2, 3, 3, 4, 4, 0]], np.int8)
TOKEN = np.asarray([[1, 0, 0, 0, 0, 7, 8, 9, 10, 0]], np.int32)
BATCH = Batch(TOKEN, ROLE, np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32))
TEXTS = {"src": "a?", "rephrase": "b?", "alt": "x", "pred": "y", "loc": "l?", "loc_ans": "m"}
TEXTS |= {"m_loc_q": "q?", "m_loc_a": "r"}


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def add_metric() -> None:
    pictures = {"image": picture(0), "image_rephrase": picture(1), "m_loc": picture(2)}
    case = cases.make_case(Record(**TEXTS, **pictures, entity="e", fact="f", split="dev"))
    (probe,) = case.probes_of("mirrored")
    shown, edited = (np.asarray(Image.open(io.BytesIO(p.image))) for p in (probe, case.edit))
    np.testing.assert_array_equal(shown, edited[:, ::-1])
    assert metrics.is_targeted("mirrored") and "mirrored" in metrics.UNGROUPED


def add_dataset() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "barns").mkdir()
        (folder / "photos").mkdir()
        pictures = {"image": "a.png", "image_rephrase": "b.png", "m_loc": "c.png"}
        for i, file in enumerate(pictures.values()):
            (folder / "photos" / file).write_bytes(picture(i))
        rows = [TEXTS | pictures | {"src": f"question {i}?"} for i in range(3)]
        (folder / "barns" / "train.json").write_text(json.dumps(rows))
        records = load_benchmark("barns", "train", manual_dir=folder, data_dir=folder / "tfds")
        assert [record.src for record in records] == [row["src"] for row in rows]
        assert all(record.image.is_file() for record in records)
    assert preset("llava-1.5-7b", dataset="barns").dataset.budget.prompt_n == 48


def add_editor() -> None:
    editor, backbone = BASELINES["ft_norm"], Backbone(CFG)
    weights = jax.jit(backbone.init)(jax.random.key(0))
    backbone, weights = editors.split_at_layer(backbone, weights, editor.layer)
    params, at = {"backbone": weights, "editor": None}, np.arange(10)[None]
    known = editor.encode(backbone, params, BATCH, backbone.vision_features(weights, BATCH.image))
    before = editor.init(backbone, params, 1)
    after = jax.jit(editor.edit, static_argnums=0)(backbone, params, before, known, BATCH)

    def logits(state):
        return editor.logits(backbone, params, state, known, BATCH, at)

    unedited = backbone.upper(weights, backbone.lower(weights, BATCH), BATCH, at)
    np.testing.assert_allclose(logits(before), unedited, rtol=1e-4, atol=1e-5)
    loss = [float(target_loss(backbone, logits(state), BATCH)) for state in (before, after)]
    assert loss[1] < 0.8 * loss[0], loss


def add_backbone() -> None:
    from liveedit_jax.backbones.linear_bridge import LinearBridgeConfig  # in the copy alone

    cfg = replace(CFG, bridge=LinearBridgeConfig())
    backbone = Backbone(cfg)
    weights = jax.jit(backbone.init)(jax.random.key(0))
    assert weights["projector"]["linear"]["kernel"].shape == (16, 16)
    assert backbone.vision_features(weights, BATCH.image).shape == (1, 4, 16)
    assert {rule.path for rule in conversion_rules(cfg)} >= {"projector/linear/kernel"}


def add_routing_rule() -> None:
    cfg = EditorConfig(module_width=4, heads_n=2, rank=2, queries_n=1, top_k=3, expert_scale=1.0)
    unit, scale = jnp.eye(4)[0], 2.0
    vision = jnp.asarray([3.0, 1.0, 2.5]) * scale
    text = jnp.asarray([0.0, 9.0, 1.0]) * scale
    bodies = jnp.zeros((2, 3, 2, 6))
    repo = repository.init_repository(cfg, 6, 4)
    expert = Expert(text[:, None] * unit, vision[:, None] * unit, *bodies)
    repo, _ = repository.add_edits(repo, expert, jnp.arange(3), jnp.ones(3, bool))
    query = Query(unit[None], unit[None], jnp.asarray([2.0]))
    every, winner = (route(replace(cfg, winner_takes_all=w), repo, query) for w in (False, True))
    assert (np.asarray(every.weight[0]) > 0).sum() == 2
    assert winner.weight[0].tolist() == [every.weight[0, 0], 0, 0] and int(winner.slot[0, 0]) == 2


for check in (add_metric, add_dataset, add_editor, add_backbone, add_routing_rule):
    check()
    print(check.__name__)
