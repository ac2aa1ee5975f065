"""``python -m hiera_video``: the same as the command ``hiera-video``."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main())
