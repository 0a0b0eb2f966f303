"""Meshes and the programs that run on them; no other package names a mesh axis."""
