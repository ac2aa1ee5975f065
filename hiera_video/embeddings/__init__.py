"""Embeddings of videos: how they lie on disk, and what can be done with them. Plain arrays, no config."""
