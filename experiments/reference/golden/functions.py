"""A case's models as compiled functions; rows are padded to few lengths to limit compilations."""

from __future__ import annotations

from functools import cached_property

import jax
import numpy as np

from experiments.reference.golden.rows import pad
from liveedit_jax.backbones import Backbone, decoder
from liveedit_jax.backbones.registry import tower
from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import extractor, liveedit
from liveedit_jax.editor.routing import hits, route, similarity, soft_weights
from liveedit_jax.types import Batch, Expert, Query, Repository

LENGTH_STEP = 32


class Functions:
    """Our functions on stored rows of any length; results have the rows' own lengths."""

    def __init__(self, backbone: Backbone, weights: dict, cfg: EditorConfig, params: dict):
        """Hold the frozen weights; nothing is compiled before it is called."""
        self.backbone, self.weights = backbone, weights
        self.cfg, self.editor = cfg, liveedit.prepare(cfg, params)

    def features(self, pixels: np.ndarray) -> jax.Array:
        """Compute the projected vision features of [B, S, S, 3] pixels."""
        return self._features(self.weights, pixels)

    def tower(self, pixels: np.ndarray) -> jax.Array:
        """Compute the vision tower's selected states."""
        return self._tower(self.weights["vision"], pixels)

    def embed(self, batch: Batch, features) -> jax.Array:
        """Embed tokens, with the features in their places."""
        return self._rows(lambda b: self._embed(self.weights, b, features), batch)

    def lower(self, batch: Batch, features) -> jax.Array:
        """Compute the edit layer's output."""
        return self._rows(lambda b: self._lower(self.weights, b, features), batch)

    def upper(self, hidden, batch: Batch) -> jax.Array:
        """Compute the logits from the edit layer's output."""
        return self._rows(lambda b, h: self._upper(self.weights, h, b), batch, hidden)

    def edit_layer_again(self, hidden, batch: Batch) -> jax.Array:
        """Apply the edit layer to its own output."""
        return self._rows(lambda b, h: self._again(self.weights, h, b), batch, hidden)

    def layers(self, embeds, batch: Batch) -> list[jax.Array]:
        """Compute every decoder layer's output; the last one after the final norm."""
        return self._rows(lambda b, x: self._layers(self.weights, x, b), batch, embeds)

    def expert(self, hidden, role) -> Expert:
        """Generate experts."""
        return self._expert(*self._pad_to_step(hidden, role))

    def query(self, hidden, role) -> Query:
        """Encode queries."""
        return self._query(*self._pad_to_step(hidden, role))

    def features_of(self, hidden, role) -> dict[str, jax.Array]:
        """Compute the text, vision and sentinel features of both extractors, [B, E, M]."""
        return self._features_of(*self._pad_to_step(hidden, role))

    def route_query(self, repo: Repository, query: Query, hidden, role) -> dict[str, jax.Array]:
        """Route a query; returns all that a case stores of it: scores, hits, weights, residual."""
        found = self._routed(repo, query, *self._pad_to_step(hidden, role))
        return {**found, "residual": found["residual"][:, : np.shape(role)[1]]}

    @staticmethod
    def _pad_to_step(*arrays) -> list[np.ndarray]:
        t = np.shape(arrays[0])[1]
        return [pad(np.asarray(a), -(-t // LENGTH_STEP) * LENGTH_STEP) for a in arrays]

    def _rows(self, run, batch: Batch, *arrays):
        t = batch.role.shape[1]
        token, role, *arrays = self._pad_to_step(batch.token, batch.role, *arrays)
        out = run(Batch(token, role, None), *arrays)
        return jax.tree.map(lambda x: x[:, :t], out)

    @cached_property
    def _features(self):
        return jax.jit(self.backbone.vision_features)

    @cached_property
    def _tower(self):
        states = tower(self.backbone.cfg)
        return jax.jit(lambda weights, pixels: states.apply({"params": weights}, pixels))

    @cached_property
    def _embed(self):
        return jax.jit(self.backbone.embed)

    @cached_property
    def _lower(self):
        return jax.jit(self.backbone.lower_from_features)

    @cached_property
    def _upper(self):
        return jax.jit(self.backbone.upper)

    @cached_property
    def _again(self):
        return jax.jit(self.backbone.edit_layer_again)

    @cached_property
    def _layers(self):
        backbone = self.backbone
        cfg = backbone.cfg.decoder

        def run(weights, x, batch):
            context, states = backbone.context(batch), []
            for i in range(cfg.layers_n):
                below = i < backbone.lower_n
                part, at = ("lower", i) if below else ("upper", i - backbone.lower_n)
                layer = jax.tree.map(lambda leaf, at=at: leaf[at], weights[part])
                kind = decoder.layer_kind(cfg, i)
                x, _ = decoder.layer(cfg).apply({"params": layer}, x, None, context, kind)
                states.append(x)
            norm = decoder.norm(cfg).apply({"params": weights["norm"]}, x)
            return [*states[:-1], norm]

        return jax.jit(run)

    @cached_property
    def _expert(self):
        return jax.jit(lambda h, r: liveedit.generate_expert(self.cfg, self.editor, h, r))

    @cached_property
    def _query(self):
        return jax.jit(lambda h, r: liveedit.encode_query(self.cfg, self.editor, h, r))

    @cached_property
    def _features_of(self):
        cfg, editor = self.cfg, self.editor

        def run(hidden, role):
            found = {}
            for name, side in (("edit", editor.edit), ("inpt", editor.input)):
                text, vision, prompt = liveedit.routing_features(cfg, side, hidden, role)
                found[f"{name}_extractor/extract_query"] = text.reshape(prompt.shape)
                found[f"{name}_extractor/extract_vision"] = vision.reshape(prompt.shape)
            sentinel = extractor.sentinel_feature(editor.input, prompt)
            return {**found, "inpt_extractor/extract_from_visprot": sentinel}

        return jax.jit(run)

    @cached_property
    def _routed(self):
        cfg, editor = self.cfg, self.editor

        def run(repo, query, hidden, role):
            hit = hits(cfg, repo, query)
            text = similarity(cfg, query.text, repo.text_key.value)
            return {
                "vis_sim": similarity(cfg, query.vision, repo.vision_key.value),
                "vis_sim_prot": query.threshold[:, None],
                "hit": hit,
                "weight": soft_weights(text, hit),
                "softmax": jax.nn.softmax(text),
                "sigmoid": jax.nn.sigmoid(text),
                "residual": liveedit.residual(
                    cfg, editor, repo, hidden, role, route(cfg, repo, query)
                ),
            }

        return jax.jit(run)
