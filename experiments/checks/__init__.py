"""Checks that take longer than a test: damage, resumption, memory, data."""
