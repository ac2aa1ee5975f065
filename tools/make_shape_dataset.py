"""Makes a data set of pictures: the same as `hiera-video make-shape-dataset`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["make-shape-dataset", *sys.argv[1:]]))
