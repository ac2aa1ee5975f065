"""Measures how much embeddings tell of the class of a video, with simple classifiers on top and by retrieval."""

import sys

from hiera_video.cli.probe import main

if __name__ == "__main__":
    sys.exit(main())
