"""Searches among embeddings: the same as `hiera-video search`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["search", *sys.argv[1:]]))
