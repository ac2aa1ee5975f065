"""Measures what embeddings tell about classes: the same as `hiera-video probe`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["probe", *sys.argv[1:]]))
