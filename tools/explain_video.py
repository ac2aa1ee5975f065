"""Shows which parts of a video a decision rests on: the same as `hiera-video explain`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["explain", *sys.argv[1:]]))
