"""Shows what a masked autoencoder makes of a video: the same as `hiera-video visualize-mae`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["visualize-mae", *sys.argv[1:]]))
