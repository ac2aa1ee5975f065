"""Looks at every video of a data set before training: the same as `hiera-video check`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["check", *sys.argv[1:]]))
