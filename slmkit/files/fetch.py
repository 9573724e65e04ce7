"""Fetches one file over a bad network: goes on where it stopped, in this process or the next, and never leaves half.

The bytes go to `TARGET.part`; beside it `TARGET.part.json` says what they are of (address and the server's tag). Only a
file that is whole and has the right SHA-256 takes its name.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import logging
import os
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from slmkit import files
from slmkit.errors import AssetError, SlmkitError

log = logging.getLogger(__name__)

TRIES = 6  # in a row without a single new byte
STALL_S = 20.0  # a connection that says nothing for so long is cut
BACK_OFF_S, LONGEST_WAIT_S = 1.0, 60.0
SPARE_BYTES = 50_000_000  # of the disk that stay free
BLOCK = 2**18
PROGRESS_S = 0.25
KEPT = "What came is kept; the same command goes on"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Policy:
    """How patient a download is; tests shorten it.

    Attributes
    ----------
    tries : int
        Failures in a row, without a new byte in between, after which it gives up.
    stall_s : float
        Silence after which a connection is cut and opened anew.
    back_off_s : float
        The first wait; each further one is twice as long, up to a minute. A server that names a time is obeyed.
    """

    tries: int = TRIES
    stall_s: float = STALL_S
    back_off_s: float = BACK_OFF_S


class _Again(Exception):
    """A failure that may pass."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects to addresses that may be fetched."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    n_bytes: int | None = None,
    token: str | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    policy: Policy | None = None,
) -> dict[str, Any]:
    """Fetch a file, resuming what an earlier call left.

    Parameters
    ----------
    url : str
        https, or http on this very machine.
    target : Path
        Where the whole file goes; its folder is made. An existing file is replaced at the end, in one step.
    sha256 : str or None
        What it must be. None accepts what comes; the result says what that was.
    n_bytes : int or None
        Its size, where known beforehand: a disk too small is told before the first byte, another size is another file.
    token : str or None
        Sent as a bearer token to the host of `url`, and not along redirects.
    progress : callable or None
        Gets {"file", "bytes", "total", "bytes_per_s", "seconds_left"} at most four times a second.
    cancel : threading.Event or None
        Set it from another thread to stop; what came stays for the next call.
    policy : Policy or None

    Returns
    -------
    dict
        sha256, bytes.

    Raises
    ------
    AssetError
        Refused by the server (with what to do), unreachable, or another file than expected (nothing is kept then).
    SlmkitError
        No space on the disk, a stop, or another process at work on the same file.
    """
    _check_scheme(url)
    fetching = _Fetching(url, target, sha256, n_bytes, token, progress, cancel, policy or Policy())
    with fetching.part_file() as part:
        fetching.fetch(part)
        found = _measured(part)
        if fetching.resumed and fetching.misfit(**found):
            log.warning("%s: the pieces of several calls do not fit; fetching all of it again", target.name)
            fetching.restart(part)
            fetching.fetch(part)
            found = _measured(part)
        if misfit := fetching.misfit(**found):
            fetching.restart(part)
            raise AssetError(f"{url} gave another file than expected: {misfit}")
        with files.on_disk(target, KEPT):
            os.fsync(part.fileno())
            os.replace(fetching.part, target)
            fetching.state.unlink(missing_ok=True)
    return found


class _Fetching:
    """The state of one download."""

    def __init__(
        self,
        url: str,
        target: Path,
        sha256: str | None,
        n_bytes: int | None,
        token: str | None,
        progress: Progress | None,
        cancel: threading.Event | None,
        policy: Policy,
    ) -> None:
        self.url, self.target, self.token = url, target, token
        self.sha256, self.n_bytes, self.total = sha256, n_bytes, n_bytes
        self.progress, self.cancel, self.policy = progress, cancel or threading.Event(), policy
        self.part = target.with_name(target.name + ".part")
        self.state = target.with_name(target.name + ".part.json")
        self.tag: str | None = None
        self.resumed, self.restarts = False, 0
        self.began, self.said, self.began_at = time.monotonic(), 0.0, 0
        self.opener = urllib.request.build_opener(_Redirect)

    @contextlib.contextmanager
    def part_file(self) -> Iterator[IO[bytes]]:
        """The part, open for this process alone; emptied when it is of another address, removed when it stays empty."""
        with files.on_disk(self.part):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            part = _open_locked(self.part)
        with part:
            known = self._known()
            size = part.seek(0, os.SEEK_END)
            if size and known.get("url") == self.url:
                self.tag, self.resumed = known.get("tag"), True
            elif size:
                part.truncate(0)
            try:
                yield part
            except BaseException:
                if part.seek(0, os.SEEK_END) == 0:
                    for path in (self.state, self.part):
                        path.unlink(missing_ok=True)
                raise

    def fetch(self, part: IO[bytes]) -> None:
        """Get what is missing, trying again while that may help."""
        failures = 0
        while True:
            before = part.seek(0, os.SEEK_END)
            try:
                self._stop_if_asked()
                return self._attempt(part, before)
            except SlmkitError:  # AssetError is an OSError too, and trying again would not mend it
                raise
            except (OSError, http.client.HTTPException) as error:
                again = _Again(_why(error))
            except _Again as error:
                again = error
            failures = 1 if part.seek(0, os.SEEK_END) > before else failures + 1
            in_vain = max(failures, self.restarts)  # bytes that are thrown away again and again are no progress
            if in_vain >= self.policy.tries:
                raise AssetError(f"cannot fetch {self.url}: {again} ({in_vain} tries in a row). {KEPT}") from again
            wait_s = min(self.policy.back_off_s * 2 ** (failures - 1), LONGEST_WAIT_S)
            wait_s = wait_s if again.after_s is None else min(again.after_s, LONGEST_WAIT_S)
            log.info("%s: %s; trying again in %.1f s", self.target.name, again, wait_s)
            self.cancel.wait(wait_s)

    def restart(self, part: IO[bytes]) -> None:
        """Throw away what came."""
        part.truncate(0)
        self.resumed, self.tag, self.total, self.restarts = False, None, self.n_bytes, self.restarts + 1

    def misfit(self, sha256: str, bytes: int) -> str | None:
        """What is wrong with the whole file, or None."""
        if self.sha256 not in (None, sha256):
            return f"SHA-256 must be {self.sha256}; got {sha256}"
        return None if self.n_bytes in (None, bytes) else f"it must have {self.n_bytes:,} bytes; got {bytes:,}"

    def _attempt(self, part: IO[bytes], have: int) -> None:
        if have and not (self.tag or self.sha256):  # nothing would tell two versions of the file apart
            self.restart(part)
            have = 0
        headers = {"User-Agent": "slmkit", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 - the scheme was checked
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        if have:
            request.add_header("Range", f"bytes={have}-")
            if self.tag and not self.tag.startswith("W/"):  # RFC 9110, 13.1.5; `_receive` compares weak ones
                request.add_header("If-Range", self.tag)
        try:
            answer = self.opener.open(request, timeout=self.policy.stall_s)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error, part, have)
        except ValueError as error:
            raise AssetError(f"cannot fetch {self.url}: it leads to an address that is none ({error})") from error
        with answer:
            self._receive(answer, part, have)

    def _receive(self, answer: Any, part: IO[bytes], have: int) -> None:
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if answer.status == 206:
            goes_on = str(answer.headers.get("Content-Range")).startswith(f"bytes {have}-")
            if not goes_on or (self.tag and tag and tag != self.tag):
                self.restart(part)
                raise _Again("the server sends a piece of another file, or another piece")
            self.resumed, tag = self.resumed or have > 0, tag or self.tag
        elif have:
            self.restart(part)  # the server sends all of it again
            have = 0
        self.total = self.total if answer.length is None else have + answer.length
        self._check_disk(have)
        self.tag = tag
        with files.on_disk(self.state, KEPT):
            files.replace(self.state, json.dumps({"url": self.url, "tag": self.tag}))
        self.began, self.began_at = time.monotonic(), have
        while block := answer.read1(BLOCK):
            self._write(part, block)
            have += len(block)
            self._say(have)
            self._stop_if_asked()
        if self.total is not None and have < self.total:
            raise _Again(f"the connection ended after {have:,} of {self.total:,} bytes")
        self._say(have, last=True)

    def _write(self, part: IO[bytes], block: bytes) -> None:
        view = memoryview(block)
        with files.on_disk(self.part, KEPT):
            while view:
                view = view[part.write(view) :]

    def _refused(self, error: urllib.error.HTTPError, part: IO[bytes], have: int) -> None:
        if error.code == 416 and have:  # nothing is left to send, or the file is shorter by now
            if error.headers.get("Content-Range") == f"bytes */{have}":
                self.total = self.began_at = have
                return self._say(have, last=True)
            self.restart(part)
            raise _Again("the server has a shorter file by now")
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Again(f"the server answers {error.code} {error.reason}", _retry_after(error.headers))
        self.restart(part)
        raise AssetError(f"cannot fetch {self.url}: {_advice(error.code, bool(self.token))}") from error

    def _check_disk(self, have: int) -> None:
        if self.total is None:
            return
        free, missing = shutil.disk_usage(self.target.parent).free, self.total - have
        if missing + SPARE_BYTES > free:
            raise SlmkitError(
                f"{self.target} needs {missing / 1e6:,.0f} MB more and {SPARE_BYTES / 1e6:.0f} MB to spare; "
                f"the disk has {free / 1e6:,.0f} MB left"
            )

    def _stop_if_asked(self) -> None:
        if self.cancel.is_set():
            raise SlmkitError(f"stopped on request; what came of {self.target.name} is kept")

    def _say(self, have: int, *, last: bool = False) -> None:
        now = time.monotonic()
        if self.progress is None or not (last or now - self.said > PROGRESS_S):
            return
        self.said = now
        rate = (have - self.began_at) / max(now - self.began, 1e-6)
        left = (self.total - have) / rate if self.total is not None and rate else None
        self.progress(
            {"file": self.target.name, "bytes": have, "total": self.total, "bytes_per_s": rate, "seconds_left": left}
        )

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads(self.state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _check_scheme(url: str) -> None:
    scheme = host = None
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        scheme, host = parts.scheme, parts.hostname
    if not host or (scheme != "https" and not (scheme == "http" and host in LOOPBACK)):
        raise AssetError(f"only https addresses are fetched; got {url}")


def _advice(code: int, with_token: bool) -> str:
    if code in (401, 403):
        login = "the token in use has no right to it" if with_token else "log in with `hf auth login`"
        return f"the server asks for permission ({code}): accept the terms on the data set's page and {login}"
    if code in (404, 410):
        return f"there is no such file any more ({code}); give a local copy through SLMKIT_ASSETS"
    return f"the server refuses it ({code})"


def _retry_after(headers: Any) -> float | None:
    """Seconds the server asks to wait, given as a number or a date."""
    value = headers.get("Retry-After") if headers else None
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return "the server went silent"
    reason = getattr(error, "reason", None) or error
    return f"{type(error).__name__}: {reason}" if str(reason) else type(error).__name__


def _measured(part: IO[bytes]) -> dict[str, Any]:
    part.seek(0)
    digest = hashlib.sha256()
    while block := part.read(2**20):
        digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": part.tell()}


def _open_locked(path: Path) -> IO[bytes]:
    """The part under its name, locked: a process that waited for the name may hold a file that was moved on since."""
    while True:
        part = open(path, "a+b", buffering=0)  # noqa: SIM115 - the caller closes it
        try:
            files.hold(part, SlmkitError(f"{part.name}: another process is fetching it; wait for it"))
            if path.exists() and os.path.samestat(os.fstat(part.fileno()), path.stat()):
                return part
        except BaseException:
            part.close()
            raise
        part.close()
