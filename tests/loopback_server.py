"""A web server on this machine that behaves badly to order, and remembers what it was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What one request gets.

    Attributes
    ----------
    body : bytes
        The whole file; a request for a range gets the rest of it.
    status : int
        Anything but 200 is sent with the body as it is.
    ranges : bool
        Whether a range is heeded; else all of the file comes again.
    cut : int or None
        Bytes of the answer after which the connection ends.
    stall : int or None
        Bytes of the answer after which nothing more comes.
    etag : str or None
        The version of the file.
    if_range : bool
        Whether a request about another version gets all of the file, as it should.
    chunked : bool
        Send no length.
    shift : int
        Added to where a range begins.
    headers : mapping
        More headers: Location, Retry-After.
    """

    body: bytes = b""
    status: int = 200
    ranges: bool = True
    cut: int | None = None
    stall: int | None = None
    etag: str | None = '"one"'
    if_range: bool = True
    chunked: bool = False
    shift: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request: its path and the headers that matter, None where they were not sent; and what it asked for."""

    path: str
    range: str | None
    if_range: str | None
    authorization: str | None
    method: str = "GET"


class LoopbackServer(ThreadingHTTPServer):
    """Answers each path by its own list of answers, the last one again and again."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: dict[str, list[Answer]] = {}
        self.log: list[Asked] = []
        self.closing = threading.Event()

    def plan(self, path: str, *answers: Answer) -> str:
        """Set what a path answers, in turn; gives its address."""
        self.script[path] = list(answers)
        return self.url(path)

    def url(self, path: str = "", host: str = "127.0.0.1") -> str:
        """The address of a path."""
        return f"http://{host}:{self.server_port}{path}"

    def publish(self, hub_id: str, revision: str, bodies: Mapping[str, bytes], hashed: str = "") -> None:
        """Make a data set of the hub: what its branch main and the commit hold, and the files at the commit."""
        siblings: list[dict[str, Any]] = [{"rfilename": "README.md", "size": 1}]
        for name, body in bodies.items():
            lfs = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 9}
            siblings.append({"rfilename": name, "size": len(body)} | ({"lfs": lfs} if name == hashed else {}))
            self.plan(f"/datasets/{hub_id}/resolve/{revision}/{name}", Answer(body))
        described = Answer(json.dumps({"id": hub_id, "sha": revision, "siblings": siblings}).encode())
        for name in ("main", revision):
            self.plan(f"/api/datasets/{hub_id}/revision/{name}", described)

    def publish_model(self, hub_id: str, commit: str, bodies: Mapping[str, bytes], gated: int | None = None) -> None:
        """Make a model of the hub: what main and the commit list, and the files at the commit; weights as large files.

        `gated` refuses all of it with that status, as the hub does for terms that were not accepted.
        """
        listed, tree = [], []
        for name, body in bodies.items():
            git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            sha256, size = hashlib.sha256(body).hexdigest(), len(body)
            large = name.endswith((".safetensors", ".bin"))
            lfs = {"sha256": sha256, "size": size, "pointerSize": 9}
            listed.append({"rfilename": name, "size": size, "blobId": git} | ({"lfs": lfs} if large else {}))
            pointer = {"oid": sha256, "size": size, "pointerSize": 9}
            tree.append({"type": "file", "path": name, "size": size, "oid": git} | ({"lfs": pointer} if large else {}))
            named = {"X-Repo-Commit": commit, "X-Linked-Size": str(size)}
            etag = f'"{sha256 if large else git}"'
            self.plan(f"/{hub_id}/resolve/{commit}/{name}", Answer(body, etag=etag, headers=named))
        described = Answer(json.dumps({"id": hub_id, "sha": commit, "siblings": listed}).encode())
        if gated:
            described = Answer(b"{}", gated, headers={"X-Error-Code": "GatedRepo"})
        for name in ("main", commit):
            self.plan(f"/api/models/{hub_id}/revision/{name}", described)
        self.plan(f"/api/models/{hub_id}/tree/{commit}", Answer(json.dumps(tree).encode()))

    def next_answer(self, path: str, keep: bool = False) -> Answer:
        """The answer whose turn it is; `keep` leaves it for the next request."""
        answers = self.script.get(path.partition("?")[0], [Answer(b"no such path", 404)])
        return answers.pop(0) if len(answers) > 1 and not keep else answers[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        wanted, sent, head = self.headers.get("Range"), self.headers, self.command == "HEAD"
        asked = Asked(self.path, wanted, sent.get("If-Range"), sent.get("Authorization"), self.command)
        self.server.log.append(asked)
        answer = self.server.next_answer(self.path, keep=head)
        status, body, more = answer.status, answer.body, dict(answer.headers)
        heeded = answer.ranges and (not answer.if_range or sent.get("If-Range") in (None, answer.etag))
        if status == 200 and wanted and heeded:
            start = int(wanted.removeprefix("bytes=").rstrip("-")) + answer.shift
            status, size = (206, len(body)) if start < len(body) else (416, len(body))
            more["Content-Range"] = f"bytes {start}-{size - 1}/{size}" if status == 206 else f"bytes */{size}"
            body = body[start:]
        self.send_response(status)
        if answer.etag and status in (200, 206):
            more["ETag"] = answer.etag
        more |= {"Transfer-Encoding": "chunked"} if answer.chunked else {"Content-Length": str(len(body))}
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self._send(answer, body)

    def _send(self, answer: Answer, body: bytes) -> None:
        stop = answer.cut if answer.cut is not None else answer.stall
        part = body if stop is None else body[:stop]
        if answer.chunked and part:
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        elif part:
            self.wfile.write(part)
        if answer.stall is not None:
            self.server.closing.wait(30)
        if stop is not None:
            self.close_connection = True
        elif answer.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def loopback_server() -> Iterator[LoopbackServer]:
    """A server that runs while the block does."""
    server = LoopbackServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
