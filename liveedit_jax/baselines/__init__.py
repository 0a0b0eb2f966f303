"""Editors that LiveEdit is compared with, each the same three pure functions."""
