"""LLaVA: parity with Hugging Face, the split at the edit layer, packing, generation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_parity import lower, upper, vision_features

from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig, RematPolicy
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.convert import Piece, Rule, convert
from liveedit_jax.backbones.generation import Sampling, generate
from liveedit_jax.backbones.linear import round_kernels
from liveedit_jax.backbones.llava_convert import config_from_hf
from liveedit_jax.backbones.quantise import dequantise, quantise
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.data.packing import pack_row
from liveedit_jax.types import Batch, Role

CFG = BackboneConfig(
    vision=ClipConfig(image_size=12, patch_size=4, width=24, layers_n=3, heads_n=2, mlp_width=32),
    decoder=LlamaConfig(
        vocab_n=50, width=32, layers_n=4, heads_n=4, kv_heads_n=2, head_width=8, mlp_width=48
    ),
    edit_layer=1,
)


@pytest.fixture(scope="module")
def model():
    backbone = Backbone(CFG)
    return backbone, jax.jit(backbone.init)(jax.random.key(0))


def rows(lengths, image=True, seed=0):
    """Prompts of these lengths, right-padded, with a random picture each."""
    rng = np.random.default_rng(seed)
    p = CFG.vision_n * image
    t = 1 + p + max(lengths)
    token, role = rng.integers(3, 50, (len(lengths), t)), np.zeros((len(lengths), t), np.int8)
    for b, n in enumerate(lengths):
        role[b, : 1 + p + n] = [Role.PRE] + [Role.VISION] * p + [Role.PROMPT] * n
    picture = rng.normal(size=(len(lengths), 12, 12, 3)).astype(np.float32)
    return Batch(jnp.asarray(token, jnp.int32), jnp.asarray(role), jnp.asarray(picture))


@pytest.mark.parity
def test_equals_the_pytorch_original():
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration
    from transformers import LlavaConfig as TheirConfig

    torch.manual_seed(0)
    theirs = TheirConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            image_size=12, patch_size=4,
        ),
        text_config=LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        ),
        image_token_index=49,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    net = LlavaForConditionalGeneration(theirs).eval()
    for p in net.parameters():  # away from the special values of a fresh model
        p.data += 0.05 * torch.randn_like(p)
    cfg = config_from_hf(theirs.to_dict(), edit_layer=1)
    weights = convert_weights(cfg, {k: v.numpy() for k, v in net.state_dict().items()})
    backbone, batch = Backbone(cfg), rows([5])
    ids = np.array(batch.token)
    ids[ids == 49] = 7
    batch = batch.replace(token=jnp.asarray(ids))
    ids[np.asarray(batch.role) == Role.VISION] = 49
    with torch.no_grad():
        want = net(
            input_ids=torch.tensor(ids),
            pixel_values=torch.tensor(np.asarray(batch.image).transpose(0, 3, 1, 2)),
            output_hidden_states=True,
        )
    hidden = lower(backbone, weights, batch)
    logits = upper(backbone, weights, hidden, batch)
    # transformers 5 records states before each layer: index edit_layer + 1 is its output
    np.testing.assert_allclose(hidden, want.hidden_states[2].numpy(), atol=1e-4)
    np.testing.assert_allclose(logits, want.logits.numpy(), atol=1e-4)


def test_padding_changes_nothing(model):
    backbone, weights = model
    both = rows([6, 3])
    alone = jax.tree.map(lambda leaf: leaf[1:], both)
    short = alone.replace(token=alone.token[:, :-3], role=alone.role[:, :-3])

    def run(batch):
        return upper(backbone, weights, lower(backbone, weights, batch), batch)

    n = short.token.shape[1]
    np.testing.assert_allclose(run(both)[1:, :n], run(short), atol=1e-5)


def test_logits_of_some_positions_are_those_of_all(model):
    backbone, weights = model
    batch, at = rows([6, 3]), jnp.asarray([[3, 7, 10], [0, 1, 12]])
    hidden = lower(backbone, weights, batch)
    every = upper(backbone, weights, hidden, batch)
    some = upper(backbone, weights, hidden, batch, at)
    np.testing.assert_allclose(some, jnp.take_along_axis(every, at[..., None], 1), atol=1e-5)


@pytest.mark.parametrize("pictures_n", [1, 2])
def test_packed_questions_equal_separate_ones(model, pictures_n):
    backbone, weights = model
    image = rows([1, 1]).image[:pictures_n]
    shown, vision_n = image if pictures_n == 1 else image[None], pictures_n * CFG.vision_n
    questions = [([5, 6, 7], [8, 9]), ([10, 11], [12]), ([13], [14, 15, 16])]

    def batch(row):
        return Batch(image=shown, **{k: jnp.asarray(v)[None] for k, v in row.items()})

    def states(row):
        return lower(backbone, weights, batch(row))[0]

    length_n = 13 + vision_n
    packed = states(pack_row(questions, length_n, 1, vision_n)[0])
    at = head_n = 1 + vision_n
    for question in questions:
        n = sum(map(len, question))
        single = states(pack_row([question], length_n, 1, vision_n)[0])[head_n : head_n + n]
        np.testing.assert_allclose(packed[at : at + n], single, atol=1e-5)
        at += n


def test_a_scene_has_the_features_of_its_left_picture_and_then_of_its_right_one(model):
    backbone, weights = model
    pictures = rows([1, 1]).image
    assert not np.array_equal(pictures[0], pictures[1])
    scene = vision_features(backbone, weights, pictures[None])
    apart = vision_features(backbone, weights, pictures)
    np.testing.assert_allclose(scene[0], np.concatenate(list(apart)), atol=1e-5)


def slow_greedy(backbone, weights, batch, steps_n, intervene):
    """One token at a time, everything computed anew."""
    found = []
    wide = batch.token.shape[1] + steps_n
    for b in range(batch.token.shape[0]):
        n = int((batch.role[b] != Role.PAD).sum())
        token, role = list(np.asarray(batch.token[b, :n])), list(np.asarray(batch.role[b, :n]))
        made = []
        while len(made) < steps_n:
            pad = [0] * (wide - len(token))
            row = Batch(
                jnp.asarray([token + pad], jnp.int32),
                jnp.asarray([role + pad], jnp.int8),
                batch.image[b : b + 1],
            )
            hidden = intervene(b, lower(backbone, weights, row))
            logits = upper(backbone, weights, hidden, row)
            made.append(int(logits[0, len(token) - 1].argmax()))
            if made[-1] == CFG.eos_id:
                break
            token, role = token + [made[-1]], role + [Role.ANSWER]
        found.append(made + [CFG.pad_id] * (steps_n - len(made)))
    return found


class Shift:
    """Adds a plan's vector everywhere."""

    def __call__(self, plan, hidden, role):
        return hidden + plan[:, None]


def test_generation_with_caches_equals_generation_without(model):
    backbone, weights = model
    batch = rows([6, 3, 1], seed=2)
    plan = jax.random.normal(jax.random.key(3), (3, 32))
    plain = slow_greedy(backbone, weights, batch, 6, lambda b, h: h)
    shifted = slow_greedy(backbone, weights, batch, 6, lambda b, h: h + plan[b])
    assert np.asarray(generate(backbone, weights, batch, 6)).tolist() == plain
    short = np.asarray(generate(backbone, weights, batch, 6, most=4))
    pad = backbone.cfg.pad_id
    assert short.tolist() == [[*row[:4], pad, pad] for row in plain]
    assert np.asarray(generate(backbone, weights, batch, 6, plan, Shift())).tolist() == shifted
    assert plain != shifted


def test_generation_stops_at_eos(model):
    backbone, weights = model
    weights = weights | {"head": weights["head"].at[:, CFG.eos_id].set(0)}
    batch = rows([4], image=False)
    first = int(generate(backbone, weights, batch, 1)[0, 0])
    swapped = weights["head"].at[:, CFG.eos_id].set(weights["head"][:, first])
    swapped = swapped.at[:, first].set(0)
    made = generate(backbone, weights | {"head": swapped}, batch, 5)
    assert np.asarray(made).tolist() == [[CFG.eos_id, 0, 0, 0, 0]]


def test_a_text_only_row_ignores_its_image(model):
    backbone, weights = model
    batch = rows([4], image=False)
    other = batch.replace(image=batch.image + 1)
    found, wanted = (lower(backbone, weights, each) for each in (other, batch))
    np.testing.assert_array_equal(found, wanted)


def test_conversion_accounts_for_every_name():
    rules = [Rule(r"a\.(?P<layer>\d)", "a", layers=range(2)), Rule("b", "b"), Rule("c", None)]
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    good = {"a.0": np.ones(3), "a.1": np.zeros(3), "b": np.ones(2), "c": np.ones(1)}
    assert convert(good, rules, like)["a"].tolist() == [[1, 1, 1], [0, 0, 0]]
    for change, says in (
        ({"d": np.ones(1)}, "unknown name d"),
        ({"b": np.ones(5)}, r"b makes b of shape \(5,\), expected \(2,\)"),
        ({"b": np.array([1, np.inf])}, "non-finite values in b"),
        ({"a.1": np.zeros(4)}, r"a.1 makes a of shape \(4,\)"),
    ):
        with pytest.raises(ValueError, match=says):
            convert(good | change, rules, like)
    with pytest.raises(ValueError, match="missing weights for a"):
        convert({k: v for k, v in good.items() if k != "a.1"}, rules, like)
    doubled = [*rules, Rule("e", "b")]
    with pytest.raises(ValueError, match="doubled name e"):
        convert(good | {"e": np.ones(2)}, doubled, like)


def test_a_leaf_that_is_stored_in_pieces_is_put_together():
    rules = [
        Rule("old", "head", np.transpose, piece=Piece(1, 0, 3)),
        Rule("new", "head", np.transpose, piece=Piece(1, 3, 5)),
    ]
    like, old, new = {"head": jnp.zeros((2, 5))}, np.ones((3, 2)), np.arange(4.0).reshape(2, 2)
    found = convert({"old": old, "new": new}, rules, like)["head"]
    assert found.tolist() == [[1, 1, 1, 0, 2], [1, 1, 1, 1, 3]]
    for change, says in (
        ({"old": old}, r"missing weights for head \(1 of its parts found\)"),
        ({"old": old, "new": old}, r"new makes head of shape \(2, 3\), expected \(2, 2\)"),
        ({"old": old, "new": new, "newer": new}, "unknown name newer"),
    ):
        with pytest.raises(ValueError, match=says):
            convert(change, rules, like)


class Nothing:
    """Adds a residual of zeros, as an editor does where nothing is hit."""

    def __call__(self, plan, hidden, role):
        return hidden + jnp.zeros((*hidden.shape[:2], 1))


def test_generation_is_the_unedited_one_where_nothing_is_hit(model):
    backbone, weights = model
    batch = rows([6, 3, 1], seed=5)
    plain = generate(backbone, weights, batch, 8)
    np.testing.assert_array_equal(generate(backbone, weights, batch, 8, None, Nothing()), plain)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    plain = generate(backbone, half, batch, 8)
    np.testing.assert_array_equal(generate(backbone, half, batch, 8, None, Nothing()), plain)


def test_draws_follow_the_probabilities(model):
    backbone, weights = model
    one = rows([4], seed=6)
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2000, 0), one)
    sampling = Sampling(temperature=1.0, top_k=5, top_p=0.9)
    drawn = np.asarray(
        generate(backbone, weights, many, 1, sampling=sampling, key=jax.random.key(1))
    )[:, 0]
    logits = upper(backbone, weights, lower(backbone, weights, one), one)
    last = int((np.asarray(one.role[0]) != Role.PAD).sum()) - 1
    p = np.sort(np.asarray(jax.nn.softmax(logits[0, last])))[::-1]
    kept = int((np.cumsum(p[:5] / p[:5].sum()) - p[:5] / p[:5].sum() < 0.9).sum())
    want = p[:kept] / p[:kept].sum()
    values, counts = np.unique(drawn, return_counts=True)
    assert len(values) == kept
    np.testing.assert_allclose(np.sort(counts)[::-1] / 2000, want, atol=0.05)


def test_sampling_is_reproducible_and_cold_sampling_is_greedy(model):
    backbone, weights = model
    batch, key = rows([6, 3], seed=7), jax.random.key(3)
    cold = Sampling(temperature=1e-4)
    plain = generate(backbone, weights, batch, 6)
    np.testing.assert_array_equal(
        generate(backbone, weights, batch, 6, sampling=cold, key=key), plain
    )
    warm = Sampling(temperature=3.0)
    first = generate(backbone, weights, batch, 6, sampling=warm, key=key)
    np.testing.assert_array_equal(
        generate(backbone, weights, batch, 6, sampling=warm, key=key), first
    )
    other = generate(backbone, weights, batch, 6, sampling=warm, key=jax.random.key(4))
    assert not np.array_equal(other, first)


@pytest.mark.parametrize("field", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 1.5}])
def test_impossible_sampling_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        Sampling(**field)


def test_weights_in_8_bits_stay_near(model):
    backbone, weights = model
    batch = rows([6, 3])
    small = quantise(weights)
    kernel = small["lower"]["gate"]["kernel"]
    assert kernel.integer.dtype == jnp.int8 and kernel.integer.shape == (2, 32, 48)

    def run(weights):
        return upper(backbone, weights, lower(backbone, weights, batch), batch)

    exact, near, widened = run(weights), run(small), run(dequantise(small))
    np.testing.assert_allclose(near, widened, atol=1e-5)
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()

    def loss(hidden, small):
        return backbone.upper(small, hidden, batch).sum()

    gradient = jax.jit(jax.grad(loss))(lower(backbone, small, batch), small)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_halved_kernels_stay_near_and_states_stay_float32(model):
    backbone, weights = model
    batch = rows([6, 3])
    half = round_kernels(weights)
    assert half["upper"]["gate"]["kernel"].dtype == jnp.bfloat16
    assert half["upper"]["norm1"]["scale"].dtype == half["embed"].dtype == jnp.float32
    hidden = lower(backbone, weights, batch)

    @jax.jit
    @jax.grad
    def gradient(hidden, w):
        return (backbone.upper(w, hidden, batch) ** 2).mean()

    assert lower(backbone, half, batch).dtype == jnp.float32
    for run in (lambda w: upper(backbone, w, hidden, batch), lambda w: gradient(hidden, w)):
        exact, near = run(weights), run(half)
        assert near.dtype == jnp.float32
        assert 0 < np.abs(near - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("keep", [RematPolicy.PRODUCTS, RematPolicy.INPUTS])
def test_recomputed_gradients_are_the_same(model, keep):
    backbone, weights = model
    batch = rows([6, 3])
    hidden = lower(backbone, weights, batch)
    again = Backbone(replace(CFG, keep=keep))

    def gradient(net):
        return jax.jit(jax.grad(lambda h: (net.upper(weights, h, batch) ** 2).sum()))(hidden)

    np.testing.assert_allclose(gradient(again), gradient(backbone), rtol=1e-4, atol=1e-5)
