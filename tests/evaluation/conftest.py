"""A very small random model and a stream of made-up cases."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from PIL import Image

from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.tokenizer import train_tokenizer
from liveedit_jax.editor import liveedit
from liveedit_jax.editor.as_editor import LiveEdit
from liveedit_jax.evaluation.probes import Case, Probe
from liveedit_jax.evaluation.subject import ModelParts

BACKBONE = BackboneConfig(
    vision=ClipConfig(image_size=8, patch_size=4, width=16, layers_n=2, heads_n=2, mlp_width=16),
    decoder=LlamaConfig(
        vocab_n=300,
        width=16,
        layers_n=3,
        heads_n=2,
        kv_heads_n=1,
        head_width=8,
        mlp_width=16,
        tied_head=True,
    ),
    edit_layer=1,
)
EDITOR = EditorConfig(module_width=8, heads_n=2, rank=2, queries_n=2, expert_scale=0.02, top_k=4)
WORDS = "red blue green sharp round tiny old new loud soft".split()


def make_cases(n: int, seed: int = 0) -> list[Case]:
    """Cases with most kinds of probe, one of them twice; every third lacks a look-alike."""
    rng = np.random.default_rng(seed)

    def image():
        data = io.BytesIO()
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data, format="PNG")
        return data.getvalue()

    def words(k):
        return " ".join(rng.choice(WORDS, k))

    cases = []
    for c in range(n):
        shown, question, target = image(), f"what is {words(1)}?", words(int(rng.integers(1, 4)))
        probes = [
            Probe("reliability", question, target, shown),
            Probe("text_generality", f"tell me {words(1)}:", target, shown),
            Probe("image_generality", question, target, image()),
            Probe("text_locality", f"say {words(2)}", words(1), None),
            Probe("image_locality", f"see {words(1)}?", words(2), image()),
            Probe("other_drawing", question, target, image()),
            Probe("same_image", f"is it {words(1)}?", words(1), shown),
            Probe("same_image", f"how {words(2)} is it?", words(2), shown),
            Probe("same_image_held_out", f"who is {words(1)}?", words(1), shown),
        ]
        if c % 3:
            probes.append(Probe("look_alike", question, words(2), image()))
        cases.append(Case(f"entity {c}", "name", tuple(probes)))
    return cases


@pytest.fixture(scope="session")
def cases_of():
    """n -> the first n cases."""
    return make_cases


@pytest.fixture(scope="session")
def retention() -> Case:
    """Questions about what no edit touches."""
    (case,) = make_cases(1, seed=9)
    return Case("", "", (*case.probes_of("image_locality"), *case.probes_of("text_locality")))


@pytest.fixture(scope="session")
def parts() -> ModelParts:
    """The small model, random."""
    backbone = Backbone(BACKBONE)
    editor = liveedit.init_params(jax.random.key(4), EDITOR, BACKBONE.width, BACKBONE.vision_n)
    texts = [f"what is {a}? tell me say see is it {b}" for a in WORDS for b in WORDS]
    return ModelParts(
        backbone,
        jax.jit(backbone.init)(jax.random.key(0)),
        train_tokenizer(texts, 300),
        LiveEdit(EDITOR),
        editor,
    )
