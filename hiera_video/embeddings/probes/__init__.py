"""What embeddings tell: classifiers on them, measured."""
