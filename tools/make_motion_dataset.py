"""Makes a small video data set of which only motion tells the classes apart."""

import sys

from hiera_video.cli.make_motion_dataset import main

if __name__ == "__main__":
    sys.exit(main())
