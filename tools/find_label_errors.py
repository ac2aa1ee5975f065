"""Ranks the clips whose label is probably wrong: the same as `hiera-video find-label-errors`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["find-label-errors", *sys.argv[1:]]))
