"""A stub of the Hugging Face hub on loopback: repositories in memory, with the requests that pushes and pulls make."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        files: content by name, per repository.
        needs_token: True to refuse requests without one.
    """

    daemon_threads = True

    def __init__(self):
        """Listen at a free port of loopback."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.needs_token = False

    @property
    def url(self):
        """Return the URL of the server."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Print nothing."""

    def answer(self, content, status=200, **headers):
        """Send an answer: bytes, or an object as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        """Send an error of the hub."""
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def do_POST(self):
        """Create a repository, choose how files are uploaded, or commit files."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        files = self.server.files
        if self.server.needs_token and not self.headers.get("Authorization"):
            self.refuse(401, "Unauthorized")
        elif self.path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(part for part in (given.get("organization"), given["name"]) if part)
            files.setdefault(name, {})
            self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            given = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in given]
            self.answer({"files": modes})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    files[match[1]][entry["value"]["path"]] = content
                if entry["key"] == "deletedFile":
                    files[match[1]].pop(entry["value"]["path"])
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{match[1]}/commit/1"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        else:
            self.refuse(404, "EntryNotFound")

    def do_GET(self):
        """Describe a repository, or send a file."""
        path, files = self.path.partition("?")[0], self.server.files
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            if match[1] not in files:
                self.refuse(401, "RepoNotFound")
            elif match[3] not in (None, "main", COMMIT):
                self.refuse(404, "RevisionNotFound")
            elif match[2] == "tree":
                stored = files[match[1]].items()
                self.answer([{"type": "file", "path": name, "size": len(part), "oid": name} for name, part in stored])
            else:
                siblings = [{"rfilename": name} for name in files[match[1]]]
                self.answer({"id": match[1], "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = files[match[1]][match[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.answer(content, X_Repo_Commit=COMMIT, ETag=etag)
        else:
            self.refuse(404, "EntryNotFound")

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def hub_stub():
    """Yield a hub that serves until the end of the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
