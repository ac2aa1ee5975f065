"""Plumbing that every other part may use. It imports nothing else from this package."""
