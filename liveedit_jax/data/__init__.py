"""Benchmarks, records, tokenising into roles, and the pretraining mixture."""
