"""Embedding videos."""
