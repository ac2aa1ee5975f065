"""Writes weights for another package, verified there: the same as `hiera-video convert`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["convert", *sys.argv[1:]]))
