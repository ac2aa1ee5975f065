"""Says what a training run will cost before it starts: the same as `hiera-video plan`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["plan", *sys.argv[1:]]))
