"""Checks every video of a config's lists before days of training, and writes down what it finds out."""

import sys

from hiera_video.cli.check import main

if __name__ == "__main__":
    sys.exit(main())
