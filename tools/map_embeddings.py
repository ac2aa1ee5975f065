"""Draws embeddings as a page: the same as `hiera-video map`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["map", *sys.argv[1:]]))
