"""The one iopath PathManager: every path that a user names is opened through it."""

from iopath.common.file_io import HTTPURLHandler, PathManager

pathmgr = PathManager()
pathmgr.register_handler(HTTPURLHandler())
