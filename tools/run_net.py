"""Trains, pre-trains, tests and extracts as configs say: the same as `hiera-video run`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["run", *sys.argv[1:]]))
