"""Plumbing that any other part may use; imports nothing else of this package."""
