"""Packs the videos of a data set into tar files: the same as `hiera-video pack`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["pack", *sys.argv[1:]]))
