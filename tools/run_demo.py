"""The demo: makes videos, trains a small Hiera on them, tests it over several views, and prints what came out."""

import sys

from hiera_video.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
