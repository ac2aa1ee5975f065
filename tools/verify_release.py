"""Tests a released model and compares it with its paper: the same as `hiera-video verify-release`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["verify-release", *sys.argv[1:]]))
