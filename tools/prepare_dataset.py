"""Makes a data set ready for training: the same as `hiera-video prepare`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["prepare", *sys.argv[1:]]))
