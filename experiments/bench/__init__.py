"""Benchmarks of speed and memory; what is compared is timed in the same run."""
