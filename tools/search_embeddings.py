"""Finds the clips most similar to an example among embeddings that EXTRACT wrote, or pairs that are nearly the same."""

import sys

from hiera_video.cli.search import main

if __name__ == "__main__":
    sys.exit(main())
