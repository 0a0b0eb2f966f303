"""The checks behind `experiments.reference.check_golden`: one file per part of a golden case."""
