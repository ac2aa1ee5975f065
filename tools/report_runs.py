"""Writes a page about runs: the same as `hiera-video report`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["report", *sys.argv[1:]]))
