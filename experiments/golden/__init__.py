"""The checks behind `experiments.check_golden`: one file per part of a golden case."""
