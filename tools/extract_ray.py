"""Embed videos on a Ray cluster, with the same config keys and into the same files as ``run_net.py EXTRACT.ENABLE``."""

import sys

from hiera_video.cli.extract import main

if __name__ == "__main__":
    sys.exit(main())
