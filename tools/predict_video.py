"""Names the classes in a video over time: the same as `hiera-video predict`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["predict", *sys.argv[1:]]))
