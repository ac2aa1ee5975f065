"""Finds out how many heads a masked autoencoder's decoder has: the same as `hiera-video check-mae-heads`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["check-mae-heads", *sys.argv[1:]]))
