"""Makes the data set of the demo: the same as `hiera-video make-motion-dataset`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["make-motion-dataset", *sys.argv[1:]]))
