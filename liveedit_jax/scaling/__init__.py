"""Meshes and what runs over them: the only place that spells a mesh axis."""
