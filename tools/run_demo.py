"""Runs the demo in the current folder: the same as `hiera-video demo`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["demo", *sys.argv[1:]]))
