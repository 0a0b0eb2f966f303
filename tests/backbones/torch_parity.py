"""Parts that the parity tests share: torch models off their initial values, and comparisons."""

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax.backbones import Backbone
from liveedit_jax.types import Batch, Role

lower = jax.jit(Backbone.lower, static_argnums=0)  # compiled once for all tests of one shape
upper = jax.jit(Backbone.upper, static_argnums=0)
vision_features = jax.jit(Backbone.vision_features, static_argnums=0)
SHARED = dict(hidden_size=24, intermediate_size=32, num_attention_heads=2, image_size=12)


def shaken(net, seed=0):
    """A torch model in evaluation, every weight away from its initial value."""
    import torch

    torch.manual_seed(seed)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net.eval()


def numpy_state(net) -> dict[str, np.ndarray]:
    """A torch module's state dict as arrays."""
    return {name: value.detach().numpy() for name, value in net.state_dict().items()}


def channels_first(image: np.ndarray):
    """Our pictures as torch has them."""
    import torch

    return torch.tensor(np.moveaxis(np.asarray(image), -1, -3).copy())


def close(ours, theirs, tolerance: float) -> None:
    """max|difference| / max|theirs| is within the tolerance."""
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else np.asarray(theirs)
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert np.isfinite(theirs).all() and np.abs(theirs).max() > 1e-3
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < tolerance


def rows(heads, vision_n: int, lengths, vocab_n: int, image_shape, seed=0) -> Batch:
    """Rows of [head tokens, VISION, PROMPT x length], right-padded, with random pictures."""
    rng = np.random.default_rng(seed)
    t = len(heads) + vision_n + max(lengths)
    token = rng.integers(3, vocab_n - 1, (len(lengths), t))
    role = np.zeros((len(lengths), t), np.int8)
    for b, n in enumerate(lengths):
        full = [*heads, *[Role.VISION] * vision_n, *[Role.PROMPT] * n]
        role[b, : len(full)] = full
    image = rng.normal(size=(len(lengths), *image_shape)).astype(np.float32)
    return Batch(jnp.asarray(token, jnp.int32), jnp.asarray(role), jnp.asarray(image))


def their_ids(batch: Batch, image_id: int):
    """Token ids with the image's placeholder, and the attention mask, as torch tensors."""
    import torch

    ids, role = np.array(batch.token), np.asarray(batch.role)
    ids[role == Role.VISION] = image_id
    return torch.tensor(ids), torch.tensor((role != Role.PAD).astype(np.int64))


def compare_model(backbone, weights, batch: Batch, hidden, logits) -> None:
    """The edit layer's states and the logits at all real positions, to 1e-4."""
    states = lower(backbone, weights, batch)
    ours = upper(backbone, weights, states, batch)
    real = np.asarray(batch.role) != Role.PAD
    close(np.asarray(states)[real], hidden.detach().numpy()[real], 1e-4)
    close(np.asarray(ours)[real], logits.detach().numpy()[real], 1e-4)
