"""The baselines: editors that LiveEdit is compared with, behind the same interface."""
