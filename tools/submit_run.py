"""Submits a run to Slurm: the same as `hiera-video submit`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["submit", *sys.argv[1:]]))
