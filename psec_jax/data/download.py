"""Fetching one file: with progress, going on where an earlier try stopped, checked, then moved."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from psec_jax import storage
from psec_jax.errors import BrokenFile

CHUNK = 1 << 18
TIMEOUT = 30


class DownloadFailed(OSError):
    """A file could not be fetched; what has come of it is kept for the next try."""


def download(url: str, target: Path, check: Callable[[Path], object], shown: bool = True) -> Path:
    """Fetch ``url`` into ``target``, which exists only once it is whole and ``check`` accepts it.

    What has come lies in ``<target>.part``, and a later call goes on from there. A file that
    ``check`` refuses with ``BrokenFile`` is thrown away and fetched once more from its beginning.
    Raises ``DownloadFailed`` in one line with the address and where to put the file by hand.
    """
    part = target.with_name(target.name + ".part")
    with _alone(target):
        for last_try in (False, True):
            if target.exists():
                return target
            try:
                _fetch(url, part, shown)
            except (OSError, http.client.HTTPException) as error:
                raise DownloadFailed(
                    f"could not download {url} ({_reason(error)}); try again, or fetch it by "
                    f"other means and put it into {target.parent}"
                ) from None
            try:
                check(part)
            except BrokenFile as error:
                part.unlink()
                if last_try:
                    raise DownloadFailed(
                        f"{url} came damaged twice ({error}); fetch it by other means and put it "
                        f"into {target.parent}"
                    ) from None
                continue
            part.replace(target)
    return target


def _fetch(url: str, part: Path, shown: bool) -> None:
    """Bring ``part`` to the whole length that the server names."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "psec-jax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        # What has come is of another, longer file.
        part.unlink()
        return _fetch(url, part, shown)
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with part.open("ab" if resumed else "wb") as file, _bar(part, total, shown) as advance:
            advance(have)
            while block := response.read(CHUNK):
                file.write(block)
                advance(len(block))
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"the connection broke after {size:,} of {total:,} bytes")


@contextmanager
def _alone(target: Path):
    """Only one process fetches a file at a time; others wait and then find it."""
    import fcntl

    with storage.writing_next_to(target):
        lock = target.with_name(f".{target.name}.lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _bar(part: Path, total: int | None, shown: bool):
    from rich import console, progress

    bar = progress.Progress(
        progress.TextColumn(part.name.removesuffix(".part")),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
        console=console.Console(stderr=True),
        disable=not shown,
    )
    task = bar.add_task("download", total=total)
    with bar:
        yield lambda count: bar.advance(task, count)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server said {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
