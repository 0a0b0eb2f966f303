"""One of several processes that train together; `test_processes` starts them.

python one_process.py COORDINATOR PROCESSES PROCESS STEPS OUT (COORDINATOR "-": alone)
"""

import sys
from dataclasses import replace
from pathlib import Path

import jax
from small_model import EDITOR, SMALL

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig, MeshConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.tokenizer import load_tokenizer
from liveedit_jax.model_io.weights import sha256_of
from liveedit_jax.presets import preset
from liveedit_jax.scaling.mesh import make_mesh
from liveedit_jax.scaling.processes import start
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.scaling.training import set_up_on_mesh
from liveedit_jax.training.editor import init_state
from liveedit_jax.training.loop import train

RECIPE = EditorTrainConfig(batch_n=4, learning_rate=1e-3)
TOKENIZER = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny" / "tokenizer.json"


def main(coordinator, processes_n, process_id, steps_n, out):
    alone = coordinator == "-"
    start(None if alone else coordinator, int(processes_n), int(process_id))
    assert jax.device_count() == 4
    tokenizer = load_tokenizer(TOKENIZER, SMALL.pad_id, SMALL.bos_id, SMALL.eos_id)
    data = EditingData(tokenizer, SMALL, RECIPE, EditMixture(lengths=((60, 1.0),)))
    weights = jax.jit(Backbone(SMALL).init)(jax.random.key(0))
    state = init_state(Backbone(SMALL), EDITOR, RECIPE, jax.random.key(1))
    pod = Pod(
        make_mesh(MeshConfig(data=2, fsdp=2)),
        replace(preset("tiny"), backbone=SMALL, editor=EDITOR),
    )
    parts = set_up_on_mesh(pod, RECIPE, weights, state, data)
    state, _ = train(*parts, int(steps_n), out, save_every=3, log_every=1)
    if alone:  # then all of the state is here
        (Path(out) / "state.sha256").write_text(sha256_of(state))


if __name__ == "__main__":
    main(*sys.argv[1:])
