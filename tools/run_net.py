"""Pre-train, train, test and embed from configs: ``python tools/run_net.py --cfg FILE [FILE ...] [KEY VALUE ...]``."""

import sys

from hiera_video.cli.run import main

if __name__ == "__main__":
    sys.exit(main())
