"""Extracts embeddings on a Ray cluster: the same as `hiera-video extract --ray`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["extract", "--ray", *sys.argv[1:]]))
