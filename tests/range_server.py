"""A web server for tests: serves a folder, with or without ranges, and counts what it is asked for."""

import http.server
import re
import threading
from pathlib import Path

import pytest


class RangeServer(http.server.ThreadingHTTPServer):
    """Serves a folder, with ranges, and counts the bytes of the files that it sends."""

    def __init__(self, folder, *, has_ranges=True):
        self.folder, self.has_ranges = folder, has_ranges
        self.num_bytes, self.requests = 0, []
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class RangeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self, is_head=False):
        self.server.requests.append((self.command, self.path, self.headers.get("Range", "")))
        path = Path(self.server.folder) / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        total = len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range", ""))
        if asked and self.server.has_ranges:
            start, end = int(asked[1]), min(int(asked[2] or total - 1), total - 1)
            data = data[start : end + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        else:
            self.send_response(200)
        if self.server.has_ranges:
            self.send_header("Accept-Ranges", "bytes")
        facts = path.stat()
        self.send_header("ETag", f'"{facts.st_size}-{facts.st_mtime_ns}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not is_head:
            self.server.num_bytes += len(data)
            self.wfile.write(data)

    def do_HEAD(self):
        self.do_GET(is_head=True)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """``serve(folder)`` -> a running `RangeServer`; what the project's path manager fetches goes to an empty folder."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    servers = []

    def start(folder, **options):
        servers.append(RangeServer(folder, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
