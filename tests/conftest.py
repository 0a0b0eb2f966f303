"""A model folder with random weights; programs that compile fast, once for all tests.

Most of the tests' time is compilation, and many processes compile the same programs.
"""

from __future__ import annotations

import gc
import os
from dataclasses import asdict, replace
from pathlib import Path

import jax
import pytest
from jaxtyping import config, install_import_hook

# What computes on arrays; its annotations can be checked at run time if the hook comes first.
COMPUTING = ["liveedit_jax.editor"]
COMPUTING += [
    f"liveedit_jax.backbones.{name}"
    for name in (
        "attention", "backbone", "clip_vision", "decoder", "efficientnet", "eva_vision",
        "generation", "linear", "llama", "norms", "opt", "placement", "projector", "qformer",
        "quantise", "sequence", "vit",
    )
]  # fmt: skip
install_import_hook(COMPUTING, "beartype.beartype")
config.update("jaxtyping_disable", True)

from liveedit_jax.backbones import Backbone
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.model_io.weights import save_weights
from liveedit_jax.presets import preset

FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
if jax.__version_info__ < (0, 11):  # the emitters of before compile in a fourth of the time
    FAST += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}".strip()
COMPILED = str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
WORTH_S = 0.1  # of compilation
MAPS, MAPS_MOST = Path("/proc/self/maps"), 20_000  # Linux allows a process 65,530
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_S)
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED  # of the processes that tests start, too
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(WORTH_S)


@pytest.fixture(scope="module", autouse=True)
def released_programs():
    """Release compiled programs when they have used up a good part of the process's memory maps.

    Each program has up to a hundred, and a process that runs out of them is killed by a
    segmentation fault in the middle of a compilation.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MAPS_MOST:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def checked_annotations():
    """Check arrays against the annotations of the editor and the backbones while code is traced."""
    config.update("jaxtyping_disable", False)
    yield
    config.update("jaxtyping_disable", True)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A model of the `tiny` preset's shapes, untrained; its backbone and editor fit together."""
    folder, chosen = tmp_path_factory.mktemp("model"), preset("tiny")
    cfg = replace(chosen.editor, rank=8)
    backbone = Backbone(chosen.backbone)
    weights = jax.jit(backbone.init)(jax.random.key(0))
    sha256 = save_weights(folder / "backbone", weights, {"config": "tiny"})
    editor = init_params(jax.random.key(1), cfg, chosen.backbone.width, chosen.backbone.vision_n)
    recipe = {"config": "tiny", "editor": asdict(cfg), "backbone_sha256": sha256}
    save_weights(folder / "editor", editor, recipe)
    mojiedit_tokenizer(chosen.backbone.decoder.vocab_n).save(folder / "tokenizer.json")
    return folder
