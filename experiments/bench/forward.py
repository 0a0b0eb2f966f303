"""Time the forward passes of our backbones against PyTorch's, on the same weights and inputs.

    python -m experiments.bench.forward --out runs/bench_forward [--only tiny]

`tiny` and `smol` are whole models with a picture; `slice` is two decoder layers and the head at the
width of LLaVA-7B. Both sides are warmed up, then timed in turn; medians and ratios go to
DIR/results.json. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments.reference.originals import torch_llama, torch_llava
from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig
from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.convert import convert
from liveedit_jax.backbones.efficientnet_convert import rules as efficientnet_rules
from liveedit_jax.backbones.tables import llama_rules
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.types import Batch, Role

Pair = tuple[Callable[[], np.ndarray], Callable[[], np.ndarray], dict]
SLICE = BackboneConfig(
    vision=ClipConfig(image_size=28, width=32, layers_n=2, heads_n=2, mlp_width=32),
    decoder=LlamaConfig(layers_n=2),
    edit_layer=0,
)


def make_batch(cfg: BackboneConfig, b: int, prompt_n: int, image: bool) -> Batch:
    """Make `b` rows without padding: BOS, a picture if asked for, and a prompt."""
    rng = np.random.default_rng(0)
    vision_n = cfg.vision_n if image else 0
    role = [Role.PRE, *[Role.VISION] * vision_n, *[Role.PROMPT] * prompt_n]
    token = rng.integers(3, cfg.decoder.vocab_n - 1, (b, len(role))).astype(np.int32)
    pixels = rng.normal(size=(b, *cfg.image_shape)).astype(np.float32)
    return Batch(token, np.tile(np.array(role, np.int8), (b, 1)), pixels)


def named_arrays(net) -> dict[str, np.ndarray]:
    """Return a torch module's weights as arrays."""
    return {name: value.detach().numpy() for name, value in net.state_dict().items()}


def compile_ours(cfg: BackboneConfig, weights: dict, batch: Batch) -> Callable[[], np.ndarray]:
    """Return our whole forward pass, jitted."""
    backbone = Backbone(cfg)
    weights, batch = jax.device_put(weights), jax.device_put(batch)
    has_image = bool((np.asarray(batch.role) == Role.VISION).any())

    def forward(weights, batch):
        features = backbone.vision_features(weights, batch.image) if has_image else None
        hidden = backbone.lower_from_features(weights, batch, features)
        return backbone.upper(weights, hidden, batch)

    run = jax.jit(forward)
    return lambda: np.asarray(run(weights, batch))


def tiny(b: int = 32) -> Pair:
    """Build LLaVA-1.5 at the size of `tiny`."""
    import torch

    cfg = BACKBONES["tiny"]
    image_id = cfg.decoder.vocab_n - 1
    net = torch_llava(cfg, image_id)
    batch = make_batch(cfg, b, 40, image=True)
    ids = torch.tensor(np.where(batch.role == Role.VISION, image_id, batch.token))
    pixels = torch.tensor(np.moveaxis(batch.image, -1, 1).copy())
    mask = torch.ones_like(ids)

    def theirs():
        return net(input_ids=ids, pixel_values=pixels, attention_mask=mask).logits.numpy()

    return theirs, compile_ours(cfg, convert_weights(cfg, named_arrays(net)), batch), {"B": b}


def smol(b: int = 8) -> Pair:
    """Build EfficientNet-lite0, the projector and SmolLM2-135M, composed in torch."""
    import torch
    from torch import nn

    from experiments.reference.torch_efficientnet import EfficientNet

    cfg = BACKBONES["smol"]
    width = cfg.decoder.width
    tower, net = EfficientNet(cfg.vision).eval(), torch_llama(cfg.decoder)
    bridge = nn.Sequential(nn.Linear(cfg.vision.width, width), nn.GELU(), nn.Linear(width, width))
    like = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    weights = convert(
        named_arrays(tower), efficientnet_rules(cfg.vision), {"vision": like["vision"]}
    )
    language = {n: like[n] for n in ("embed", "norm", "lower", "upper")}
    weights |= convert(named_arrays(net), llama_rules(cfg, r"model\.", r"lm_head\."), language)
    arrays = named_arrays(bridge)
    weights["projector"] = {
        f"linear{i}": {"kernel": arrays[f"{at}.weight"].T, "bias": arrays[f"{at}.bias"]}
        for i, at in ((1, 0), (2, 2))
    }
    batch = make_batch(cfg, b, 47, image=True)
    ids = torch.tensor(batch.token)
    pixels = torch.tensor(np.moveaxis(batch.image, -1, 1).copy())

    def theirs():
        embeds = net.model.embed_tokens(ids).clone()
        embeds[:, 1 : 1 + cfg.vision_n] = bridge(tower(pixels))
        return net(inputs_embeds=embeds).logits.numpy()

    return theirs, compile_ours(cfg, weights, batch), {"B": b}


def slice_7b(b: int = 1) -> Pair:
    """Build two layers and the head at LLaVA-7B's width, without a picture."""
    import torch

    net = torch_llama(SLICE.decoder)
    like = jax.eval_shape(Backbone(SLICE).init, jax.random.key(0))
    language = {n: like[n] for n in ("embed", "norm", "lower", "upper", "head")}
    weights = convert(named_arrays(net), llama_rules(SLICE, r"model\.", r"lm_head\."), language)
    batch = make_batch(SLICE, b, 639, image=False)
    ids = torch.tensor(batch.token)
    return lambda: net(input_ids=ids).logits.numpy(), compile_ours(SLICE, weights, batch), {"B": b}


CASES = {"tiny": tiny, "smol": smol, "slice": slice_7b}


def measure(pair: Pair, repeats: int) -> dict:
    """Compare the outputs of both sides, then time them in turn; returns error and medians."""
    theirs, ours, shape = pair
    want, found = theirs(), ours()
    error = float(np.abs(want - found).max() / np.abs(want).max())
    times: dict[str, list[float]] = {"torch": [], "ours": []}
    for _ in range(repeats):
        for name, run in (("torch", theirs), ("ours", ours)):
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "shape": shape | {"T": want.shape[1], "V": want.shape[2]},
        "error": error,
        "torch_s": medians["torch"],
        "ours_s": medians["ours"],
        "ratio": medians["ours"] / medians["torch"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench_forward"))
    parser.add_argument("--only", choices=sorted(CASES))
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    import torch

    torch.manual_seed(0)
    found = {}
    with torch.inference_mode():
        for name, case in CASES.items():
            if args.only in (None, name):
                found[name] = measure(case(), args.repeats)
                print(name, json.dumps(found[name]), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
