"""Idefics, the Flamingo: parity with Hugging Face, edits, generation, its own configs."""

import io
import json
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from PIL import Image
from torch_parity import channels_first, close, numpy_state

from liveedit_jax.backbone_config import ChatTemplate
from liveedit_jax.backbones import Backbone, backbone, sequence
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.idefics_convert import FAKE, IMAGE, config_from_hf, with_processor
from liveedit_jax.backbones.registry import bridge, tower
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.config import EditorConfig, LengthBudget
from liveedit_jax.data.images import preprocess
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.editor import liveedit
from liveedit_jax.editor.repository import init_repository
from liveedit_jax.scaling.partition import backbone_shardings
from liveedit_jax.types import Batch, Role

SEED = int(os.environ.get("LIVEEDIT_PARITY_SEED", "0"))
PRE, VISION, PROMPT, ANSWER = Role.PRE, Role.VISION, Role.PROMPT, Role.ANSWER
LATENTS_N, SIDE = 5, 12
PICTURE = [*[VISION] * LATENTS_N, PRE, PROMPT]  # latents, <image>, <fake_token_around_image>
SMALL = {
    "model_type": "idefics",
    "vocab_size": 38,
    "additional_vocab_size": 2,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "cross_layer_interval": 4,
    "qk_layer_norms": True,
    "use_resampler": True,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "vision_config": {
        **{"embed_dim": 24, "intermediate_size": 28, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": SIDE, "patch_size": 4},
    },
    "perceiver_config": {
        **{"resampler_n_latents": LATENTS_N, "resampler_depth": 2, "resampler_n_heads": 3},
        **{"resampler_head_dim": 6, "qk_layer_norms_perceiver": True},
    },
}
PLAINER = SMALL | {  # the other values of its switches
    "qk_layer_norms": False,
    "alpha_type": "vector",
    "additional_vocab_size": 3,
    "tie_word_embeddings": True,
    "perceiver_config": SMALL["perceiver_config"] | {"qk_layer_norms_perceiver": False},
}


def original(config: dict, seed: int = SEED):
    """A small model of transformers with random weights and open gates."""
    import torch
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    torch.manual_seed(seed)
    net = IdeficsForVisionText2Text(IdeficsConfig(**config))
    for name, p in net.named_parameters():
        p.data += (0.2 if p.ndim < 2 else 0.1) * torch.randn_like(p)
        if "alpha" in name:
            p.data += 0.7
    return net.eval()


def converted(config: dict):
    net = original(config)
    cfg = config_from_hf(json.loads(net.config.to_json_string()))  # as it is saved
    return net, Backbone(cfg), convert_weights(cfg, numpy_state(net))


@pytest.fixture(scope="module")
def pair():
    return converted(SMALL)


def batch_of(*roles, images_n=1, seed=SEED) -> Batch:
    """Rows of these roles, right-padded, with random tokens and pictures."""
    rng = np.random.default_rng(seed)
    role = np.zeros((len(roles), max(map(len, roles))), np.int8)
    for b, row in enumerate(roles):
        role[b, : len(row)] = row
    shape = (len(roles), *((images_n,) if images_n > 1 else ()), SIDE, SIDE, 3)
    token = rng.integers(3, 40, role.shape, np.int32)
    return Batch(token, role, rng.normal(size=shape).astype(np.float32))


SHOWN = [PRE, PRE, *PICTURE, *[PROMPT] * 4]
ASKED = [SHOWN, [PRE, *[PROMPT] * 9], [PRE, *PICTURE, PROMPT, PROMPT, ANSWER], SHOWN[:-2]]


def in_torch(batch: Batch) -> dict:
    """The original's inputs: rows without latents, and the picture that each token attends to."""
    import torch

    role, b, images_n = batch.role, len(batch.role), 1 if batch.image.ndim == 4 else 2
    is_text = (role != Role.PAD) & (role != VISION)
    t = int(is_text.sum(1).max())
    ids, mask, seen = np.zeros((b, t), int), np.zeros((b, t), int), np.zeros((b, t, images_n), int)
    for row in range(b):
        n, begun, last = 0, 0, None
        for token, kind in zip(batch.token[row], role[row], strict=True):
            if kind == VISION and last != VISION:
                begun += 1
            last = kind
            if kind in (Role.PAD, VISION):
                continue
            ids[row, n], mask[row, n] = token, 1
            if begun:
                seen[row, n, begun - 1] = 1
            n += 1
    pixels = channels_first(batch.image)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "pixel_values": pixels if images_n == 2 else pixels[:, None],
        "image_attention_mask": torch.tensor(seen),
    }


def run_original(net, batch: Batch, edit_layer: int):
    """Run the original: the states after a layer, the logits, both of real tokens alone."""
    import torch

    kept = []
    hook = net.model.layers[edit_layer].register_forward_hook(lambda m, i, out: kept.append(out))
    given = in_torch(batch)
    with torch.no_grad():
        logits = net(**given).logits.numpy()
    hook.remove()
    real = given["attention_mask"].numpy() == 1
    return kept[0].numpy()[real], logits[real]


def run_ours(net: Backbone, weights, batch: Batch, whole: bool = True):
    @jax.jit
    def run(weights, batch):
        hidden = net.lower(weights, batch)
        return (hidden, net.upper(weights, hidden, batch)) if whole else (hidden,)

    real = (batch.role != Role.PAD) & (batch.role != VISION)
    return tuple(np.asarray(leaf)[real] for leaf in run(weights, batch))


def compare(ours, theirs) -> None:
    for found, want in zip(ours, theirs, strict=True):
        close(found, want, 1e-4)


@pytest.mark.parity
def test_tower_and_resampler_equal_the_originals(pair):
    import torch

    net, ours, weights = pair
    batch = batch_of(SHOWN, SHOWN)
    with torch.no_grad():
        states = net.model.vision_model(pixel_values=channels_first(batch.image))[0]
        latents = net.model.perceiver_resampler(states)
    found = tower(ours.cfg).apply({"params": weights["vision"]}, jnp.asarray(batch.image))
    close(found, states, 1e-5)
    read = bridge(ours.cfg).apply({"params": weights["projector"]}, jnp.asarray(states.numpy()))
    close(read[..., :24], latents, 1e-5)
    assert read.shape == (2, LATENTS_N, 32) and not read[..., 24:].any()


@pytest.mark.parity
@pytest.mark.parametrize("config", [SMALL, PLAINER], ids=["small", "plainer"])
def test_the_model_equals_the_original(config):
    net, ours, weights = converted(config)
    batch = batch_of(*ASKED)
    assert ours.cfg.edit_layer == 5 and ours.cfg.vision_n == LATENTS_N
    compare(run_ours(ours, weights, batch), run_original(net, batch, 5))


@pytest.mark.parity
def test_a_token_reads_the_last_picture_before_it(pair):
    net, ours, weights = pair
    row = [PRE, PRE, *PICTURE, *[PROMPT] * 2, *PICTURE, PROMPT, PROMPT]
    batch = batch_of(row, [PRE, *PICTURE, *PICTURE, PROMPT], images_n=2)
    compare(run_ours(ours, weights, batch), run_original(net, batch, 5))


def swap(tree: dict, first: str, second: str) -> dict:
    return tree | {first: tree[second], second: tree[first]}


def all_see_all(cfg, batch):
    seen = sequence.crossing(cfg, batch)
    return seen._replace(mask=jnp.ones_like(seen.mask) & (batch.role == VISION)[:, None])


def all_is_changed(cfg, batch):
    return sequence.crossing(cfg, batch)._replace(carried=None)


@pytest.mark.parity
@pytest.mark.parametrize("what", ["gate", "resampler", "rows", "mask", "carried", "norm", "place"])
def test_a_wrong_part_is_seen(pair, what, monkeypatch):
    net, ours, weights = pair
    batch, cfg = batch_of(*ASKED), ours.cfg
    theirs = run_original(net, batch, 5)
    if what == "gate":
        weights = weights | {"cross": swap(weights["cross"], "attention_gate", "mlp_gate")}
    elif what == "resampler":
        layer = swap(weights["projector"]["layer0"], "norm1", "norm_image")
        weights = weights | {"projector": weights["projector"] | {"layer0": layer}}
    elif what == "rows":  # the additional ones, changed for each other
        weights = weights | {"embed": weights["embed"][[*range(38), 39, 38]]}
        batch = batch.replace(token=np.where(batch.token == 3, 39, batch.token))
        theirs = run_original(net, batch, 5)
    elif what == "mask":
        monkeypatch.setattr(backbone, "crossing", all_see_all)
    elif what == "carried":
        monkeypatch.setattr(backbone, "crossing", all_is_changed)
    elif what == "norm":
        ours = Backbone(replace(cfg, decoder=replace(cfg.decoder, cross_qk_norm=False)))
    else:  # positions that count the latents
        place = np.arange(batch.role.shape[1])
        batch = batch.replace(position=np.broadcast_to(place, batch.role.shape))
    with pytest.raises(AssertionError):
        compare(run_ours(ours, weights, batch, whole=False), theirs[:1])


@pytest.mark.parity
def test_generation_equals_the_original_without_a_cache(pair):
    import torch

    net, ours, weights = pair
    batch = batch_of(*ASKED[:2], ASKED[3])
    made = np.asarray(generate(ours, weights, batch, 5))
    for b in range(3):
        given = in_torch(jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], batch))
        want = []
        while len(want) < 5 and ours.cfg.eos_id not in want:
            with torch.no_grad():
                best = net(**given).logits[0, -1].argmax()
            want.append(int(best))
            given["input_ids"] = torch.cat([given["input_ids"], best[None, None]], 1)
            for name in ("attention_mask", "image_attention_mask"):
                given[name] = torch.cat([given[name], given[name][:, -1:]], 1)
        assert made[b].tolist() == want + [ours.cfg.pad_id] * (5 - len(want))


EDITOR = EditorConfig(module_width=16, heads_n=2, paired_init=True)  # an edit hits itself


@pytest.fixture
def edited():
    """A small model of ours with random weights and an editor, and one edit in its repository."""
    ours = Backbone(config_from_hf(SMALL))
    weights = jax.jit(ours.init)(jax.random.key(0))
    gates = {name: weights["cross"][name] + 0.7 for name in ("attention_gate", "mlp_gate")}
    weights |= {"cross": weights["cross"] | gates}
    params = liveedit.init_params(jax.random.key(1), EDITOR, 32, LATENTS_N)
    params["input"]["sentinel"] *= 0
    both = {"backbone": weights, "editor": params}
    repo = init_repository(EDITOR, 32, 4)
    request = batch_of([*SHOWN, ANSWER, ANSWER], seed=0)
    run = jax.jit(liveedit.edit, static_argnums=(0, 1))
    ids, valid = jnp.arange(1), jnp.ones(1, bool)
    return ours, both, run(EDITOR, ours, both, repo, request, ids, valid)[0], request


def test_an_edit_changes_its_own_question_and_no_latent(edited):
    ours, params, repo, request = edited
    query = jax.jit(liveedit.logits, static_argnums=(0, 1))
    unrelated = batch_of(ASKED[1], seed=0)
    found, routed = query(EDITOR, ours, params, repo, unrelated)
    plain = jax.jit(lambda w, b: ours.upper(w, ours.lower(w, b), b))
    np.testing.assert_array_equal(found, plain(params["backbone"], unrelated))
    assert int(routed.hit_n[0]) == 0

    found, routed = query(EDITOR, ours, params, repo, request)
    assert int(routed.hit_n[0]) == 1
    editor = liveedit.prepare(EDITOR, params["editor"])
    hidden = ours.lower(params["backbone"], request)
    added = liveedit.residual(EDITOR, editor, repo, hidden, request.role, routed)
    is_latent = request.role == VISION
    assert np.abs(added)[is_latent].max() > 0  # it would reach them, were they not kept
    spared = jnp.where(is_latent[..., None], 0, added)
    by_hand = ours.upper(params["backbone"], hidden + spared, request)
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    assert np.abs(found - plain(params["backbone"], request)).max() > 1e-4
    np.testing.assert_array_equal(
        ours.keep_features(hidden, hidden + added, request.role)[is_latent], hidden[is_latent]
    )


FULL = {
    "model_type": "idefics",
    "additional_vocab_size": 2,
    "cross_layer_interval": 4,
    "cross_layer_activation_function": "swiglu",
    "max_position_embeddings": 2048,
    "qk_layer_norms": True,
    "use_resampler": True,
    "vision_config": {
        **{"embed_dim": 1280, "vision_model_name": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"},
    },
    "perceiver_config": {"qk_layer_norms_perceiver": True, "use_resampler": True},
    "word_embed_proj_dim": 4096,
    "torch_dtype": "float32",
}


@pytest.mark.parity
def test_the_full_size_has_the_parameters_of_the_original_and_all_are_placed():
    import torch
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    with torch.device("meta"):
        net = IdeficsForVisionText2Text(IdeficsConfig(**FULL))
    cfg = config_from_hf(FULL)
    shapes = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    ours_n = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    unused = sum(p.numel() for p in net.model.vision_model.post_layernorm.parameters())
    assert ours_n == sum(p.numel() for p in net.parameters()) - unused
    assert cfg.edit_layer == 21 and cfg.decoder.cross_n == 8 and cfg.vision_n == 64
    mesh = AbstractMesh((1, 2, 2, 1), ("data", "fsdp", "tensor", "expert"))
    spec = backbone_shardings(mesh, cfg, shapes)["cross"]["up"]["kernel"].spec
    assert tuple(spec) == (None, ("fsdp", "expert"), "tensor")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "idefics2"}, "model_type is 'idefics2', not 'idefics'"),
        ({"model_type": None}, "model_type is absent"),
        ({"use_resampler": False}, "use_resampler is False"),
        ({"head_dim": 6}, "head_dim is a field that is not known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is a field that is not known"),
        ({"hidden_act": "swish2"}, "hidden_act is 'swish2', which is not known"),
        ({"hidden_size": "32"}, "hidden_size is '32', not of the type of 4096"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0: above 0"),
        ({"num_attention_heads": 5}, "hidden_size: 32 is no multiple of 5"),
        ({"cross_layer_interval": 3}, "num_hidden_layers: 8 is no multiple of 3"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters.factor"),
        ({"alpha_type": "matrix"}, "alpha_type is 'matrix'"),
        ({"eos_token_id": [2, 3]}, r"eos_token_id is \[2, 3\]"),
        ({"vision_config": 3}, "vision_config is no JSON object"),
        ({"vision_config": {"embed_dim": 36}}, "vision_config.embed_dim: 36 is no multiple of 16"),
        ({"vision_config": {"embed_dim": 64}}, "vision_config.embed_dim is 64, above hidden_size"),
        ({"vision_config": {"num_channels": 1}}, "vision_config.num_channels is 1, not 3"),
        ({"perceiver_config": {"depth": 3}}, "perceiver_config.depth is a field"),
    ],
)
def test_a_config_of_another_model_is_refused_by_the_field(change, says):
    with pytest.raises(ValueError, match=says):
        config_from_hf(SMALL | change)


@pytest.mark.parity
def test_missing_and_unknown_weights_are_named(pair):
    net, ours, _ = pair
    state = numpy_state(net)
    rows = state.pop("lm_head.additional_fc.weight")
    with pytest.raises(ValueError, match=r"missing weights for head \(1 of its parts found\)"):
        convert_weights(ours.cfg, state)
    with pytest.raises(ValueError, match=r"additional_fc.weight makes head of shape \(32, 1\)"):
        convert_weights(ours.cfg, state | {"lm_head.additional_fc.weight": rows[:1]})
    name = "model.gated_cross_attn_layers.2.alpha_dense"
    more = state | {"lm_head.additional_fc.weight": rows, name: np.ones(1, np.float32)}
    with pytest.raises(ValueError, match=f"unknown name {name}"):
        convert_weights(ours.cfg, more)


PROCESSOR = {
    "image_num_channels": 3,
    "image_processor_type": "IdeficsImageProcessor",
    "image_size": SIDE,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "processor_class": "IdeficsProcessor",
}


def words():
    """A tokenizer like Llama's, with the additional tokens last, ours and transformers'."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    inner.train_from_iterator(
        [*map(chr, range(32, 127)), *["What is this? a red fox"] * 5], trainer
    )
    inner.add_special_tokens([FAKE, IMAGE])
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<unk>", additional_special_tokens=[FAKE, IMAGE],
    )  # fmt: skip
    plain = tokenizers.Tokenizer.from_str(inner.to_str())
    plain.encode_special_tokens = True
    return Tokenizer(plain, 0, 1, 2), theirs


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parity
def test_rows_and_pixels_equal_the_processor():
    from transformers import IdeficsProcessor
    from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

    tokenizer, their_words = words()
    named = {k: v for k, v in PROCESSOR.items() if k.startswith("image_") and "type" not in k}
    processor = IdeficsProcessor(IdeficsImageProcessorPil(**named), their_words)
    cfg = with_processor(config_from_hf(SMALL), PROCESSOR)
    layout = ChatTemplate(before=FAKE, between=IMAGE + FAKE)  # what the processor inserts
    for mode, size in [("RGB", (12, 12)), ("RGB", (37, 11)), ("L", (9, 50)), ("RGBA", (31, 30))]:
        shown = picture(mode, size)
        want = processor(text=[shown, "What is this?"], return_tensors="pt")
        file = io.BytesIO()
        shown.save(file, "PNG")
        made = preprocess(cfg, file.getvalue())
        theirs = np.moveaxis(want["pixel_values"][0, 0].numpy(), 0, -1)
        np.testing.assert_allclose(made.pixels, theirs, atol=1e-5)
        example = Example("What is this?", None, made.pixels)
        batch = tokenise(tokenizer, cfg, [example], LengthBudget(prompt_n=30, answer_n=4), layout)
        ids = batch.token[(batch.role != Role.PAD) & (batch.role != VISION)]
        assert ids.tolist() == want["input_ids"][0].tolist()
        assert (batch.role == VISION).sum() == LATENTS_N
        given, ours = want["image_attention_mask"][0, :, 0].numpy(), in_torch(batch)
        np.testing.assert_array_equal(ours["image_attention_mask"][0, :, 0].numpy(), given)


def test_the_processor_config_is_read():
    cfg = with_processor(config_from_hf(SMALL), PROCESSOR)
    assert cfg.vision.image_mean == (0.5, 0.4, 0.3) and cfg.vision.image_std == (0.2, 0.3, 0.4)
    for change, says in (
        ({"do_center_crop": True}, "do_center_crop is True, not False"),
        ({"image_size": 448}, "image_size is 448, not the tower's 12"),
        ({"size": {"height": 9, "width": 12}}, "size is .*, not the tower's 12"),
        ({"image_mean": [1, 2]}, "image_mean is .*, not three numbers"),
        ({"resample": 2}, "resample is 2, not 3"),
        ({"sharpen": True}, "sharpen is a field that is not known"),
    ):
        with pytest.raises(ValueError, match=says):
            with_processor(config_from_hf(SMALL), PROCESSOR | change)
