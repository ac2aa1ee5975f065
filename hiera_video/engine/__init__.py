"""The jobs: train, test, and what their loops need."""
