"""A folder of computed things for the next process: checked when read, bounded in size, safe to lose.

What is least recently used goes first. Several processes may share a folder: files appear whole, and one that vanishes,
or was changed by somebody else, is as if it had never been there.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from .files import write_atomically

LIMIT = 2**28
SUFFIX = ".sclip"


def cache_root() -> Path:
    """The user's cache folder of this package, which need not exist."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("sclip_plugin"))


class DiskCache:
    """Bytes by key, on disk.

    Args:
        folder: made when something is kept.
        limit: bytes that all files together may take.

    Example:
        >>> import tempfile
        >>> from sclip_plugin.storage.cache import DiskCache
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = DiskCache(folder)
        ...     cache.put("bank", b"bytes")
        ...     cache.get("bank"), cache.get("another")
        (b'bytes', None)
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int = LIMIT) -> None:
        self.folder = Path(folder)
        self.limit = limit

    def get(self, key: str) -> bytes | None:
        """What was kept under a key; None if nothing was, or it is not what was written."""
        path = self.path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        digest, data = content[:32], content[32:]
        return data if digest == hashlib.sha256(key.encode() + data).digest() else None

    def put(self, key: str, data: bytes) -> None:
        """Keep bytes; where that can't be done it is warned of."""
        self.put_plain(key, hashlib.sha256(key.encode() + data).digest() + data)

    def put_plain(self, key: str, data: bytes) -> None:
        """Keep bytes as they are, as the file `path`, for readers that map it into memory."""
        try:
            write_atomically(self.path(key), data)
            self._bound()
        except OSError as error:
            warnings.warn(f"what was computed could not be kept in {self.folder}: {error}.", stacklevel=4)

    def files(self) -> list[tuple[Path, int, float]]:
        """Each file with its size and when it was last used, the least recent first."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                status = path.stat()
            except OSError:  # another process removed it
                continue
            found.append((path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry[2])

    def clear(self) -> int:
        """Remove all files; returns how many bytes they took."""
        files = self.files()
        _remove(path for path, _, _ in files)
        return sum(size for _, size, _ in files)

    def _bound(self) -> None:
        files = self.files()
        excess = sum(size for _, size, _ in files) - self.limit
        for path, size, _ in files[:-1]:
            if excess <= 0:
                break
            _remove([path])
            excess -= size

    def path(self, key: str) -> Path:
        """Where a key's file lies, if it is there."""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}{SUFFIX}"


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
