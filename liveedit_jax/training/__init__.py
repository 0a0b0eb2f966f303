"""Optimisers, the one loop, pretraining of small backbones, editor training, checkpoints."""
