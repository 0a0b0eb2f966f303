"""Benchmarks: both sides in one run, each at its own best settings."""
