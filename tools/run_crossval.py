"""Cross-validates a config: the same as `hiera-video crossval`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["crossval", *sys.argv[1:]]))
