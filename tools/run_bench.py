"""Measures what a model and its data reach on this machine: the same as `hiera-video bench`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["bench", *sys.argv[1:]]))
