"""Files that are either the old one or the whole new one, never half of it.

Everything the project writes goes through `atomic_path`: the data is written beside the target under a name of its own
and then takes the target's place in one step of the file system. A process that is killed, fails or races another
leaves no broken file. (There is no `fsync`: the promise is about processes, not about the power supply.) What a killed
process could not remove is hidden, named after it, and taken away by the next `sweep` of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import ArgumentTypeError, SettingError

__all__ = [
    "atomic_path",
    "check_writable",
    "image_format",
    "locked_folder",
    "save_image",
    "save_json",
    "sweep",
    "write_atomically",
]

_LENT = re.compile(r"\..*\.sclip-(?P<host>[0-9a-f]{8})-(?P<process>[0-9a-f]+)-[0-9a-f]{16}(\..*)?", re.DOTALL)
_LEFT_FOR = 24 * 3600.0  # seconds after which a lent file of another machine counts as left behind
_PROBE_BYTES = 2**20


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lends a name to write to; what was written there becomes `path` when the block ends without an error.

    For writers that want a file name. The lent name lies in the folder of `path`, ends in the same suffix, and is used
    by nobody else. Missing parent folders are made. If the block raises, `path` stays as it was and the lent file is
    removed. A symbolic link is followed: the file that it points to is replaced, not the link. The new file has the
    permissions that any new file gets (the umask), whatever the old one had.

    Args:
        path: the file to make or replace.

    Returns:
        A context manager giving a `pathlib.Path` that does not exist yet.

    Raises:
        FileNotFoundError: the block ended without writing to the lent name.
        OSError: `path` is a folder, a device or a pipe, or can't be written.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with atomic_path(folder.name + "/new/scores.npy") as lent:
    ...     np.save(lent, np.eye(2))
    >>> [file.name for file in Path(folder.name).rglob("*.npy")]
    ['scores.npy']
    >>> folder.cleanup()
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"can't write the file {os.fspath(path)!r}: it is a folder; give a file name inside it")
    if target.exists() and not target.is_file():
        raise OSError(f"can't write {os.fspath(path)!r} atomically: it is a device or a pipe; give an ordinary file")
    target.parent.mkdir(parents=True, exist_ok=True)
    lent = target.with_name(_lent_name(target))
    try:
        yield lent
        if not lent.exists():
            raise FileNotFoundError(f"nothing was written to {str(lent)!r}, which was to become {os.fspath(path)!r}")
        _replace(lent, target)
    finally:
        lent.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], object]) -> None:
    """Makes or replaces a file by bytes, or by what a function writes into the open file; see `atomic_path`.

    Args:
        path: the file to make or replace.
        data: the content, or a function that is called with a binary file open for writing.

    Raises:
        TypeError: `data` is neither bytes nor a function (text has to be encoded first).
        OSError: `path` is a folder, a device or a pipe, or can't be written.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_atomically(folder.name + "/a.txt", b"one")
    >>> write_atomically(folder.name + "/a.txt", lambda file: file.write(b"two"))
    >>> Path(folder.name, "a.txt").read_bytes()
    b'two'
    >>> folder.cleanup()
    """
    if not callable(data) and not isinstance(data, (bytes, bytearray, memoryview)):
        raise ArgumentTypeError(
            f"data is {type(data).__name__}, expected bytes or a function that writes into an open binary file; "
            "encode text first: text.encode('utf-8')"
        )
    with atomic_path(path) as lent, open(lent, "xb") as file:
        if callable(data):
            data(file)
        else:
            file.write(data)


def save_image(image: Image.Image, path: str | os.PathLike[str], **options: Any) -> None:
    """Writes a picture atomically, in the format that the suffix of `path` names.

    Args:
        image: what to write.
        path: a name with a suffix that Pillow can write, such as `.png`.
        options: passed to `PIL.Image.Image.save`, e.g. `quality=90`; `format="PNG"` overrules the suffix.

    Raises:
        SettingError: no format is known for the suffix.
        OSError: the format can't hold this mode of picture, or `path` can't be written.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save_image(Image.new("RGB", (2, 3)), folder.name + "/new/a.png")
    >>> Image.open(folder.name + "/new/a.png").size
    (2, 3)
    >>> folder.cleanup()
    """
    kind = image_format(path, options.pop("format", None))
    write_atomically(path, lambda file: image.save(file, format=kind, **options))


def image_format(path: str | os.PathLike[str], given: str | None = None) -> str:
    """The format that a picture of this name is written in, in Pillow's words; ``given`` overrules the suffix.

    Raises:
        SettingError: none is known.

    >>> image_format("a.jpg")
    'JPEG'
    """
    suffix = Path(path).suffix.lower()
    kind = given or Image.registered_extensions().get(suffix)
    if kind is None or kind.upper() not in Image.SAVE:
        known = ", ".join(s for s in (".png", ".jpg", ".webp", ".tif", ".bmp") if s in Image.registered_extensions())
        raise SettingError(
            f"can't tell a picture format from the suffix {suffix!r} of {os.fspath(path)!r}; "
            f"end the name in one of {known}, or give format='PNG'"
        )
    return kind


def save_json(obj: Any, path: str | os.PathLike[str], indent: int | None = 2) -> None:
    """Writes an object as UTF-8 JSON, atomically; nothing is touched if it can't be written as JSON.

    Numpy numbers and arrays become numbers and lists, paths become text. NaN and infinities become `null`: JSON has no
    word for them, and many readers refuse a file in which they occur.

    Args:
        obj: dicts, lists, text, numbers, booleans, None, numpy arrays and numbers, paths.
        path: the file to make or replace.
        indent: blanks a level; None for one line.

    Raises:
        TypeError: something in `obj` is none of these.
        OSError: `path` can't be written.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save_json({"名": np.float32(0.5), "iou": [float("nan"), np.arange(2)]}, folder.name + "/a.json")
    >>> json.loads(Path(folder.name, "a.json").read_text(encoding="utf-8"))
    {'名': 0.5, 'iou': [None, [0, 1]]}
    >>> folder.cleanup()
    """
    text = json.dumps(_plain(obj), indent=indent, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode("utf-8", "backslashreplace"))


def sweep(folder: str | os.PathLike[str]) -> int:
    """Removes what killed processes have left behind in a folder and those below it: lent files that nobody writes.

    A lent file's name says which process of which machine writes it. It goes when that process is no more, or, where
    that can't be told, when it is a day old.

    Args:
        folder: where to look; one that does not exist holds nothing.

    Returns: how many files were removed.

    >>> sweep("no such folder")
    0
    """
    removed = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            match = _LENT.fullmatch(name)
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):  # another process may sweep, too
                if match and _left_behind(match["host"], int(match["process"], 16), os.stat(path).st_mtime):
                    os.unlink(path)
                    removed += 1
    return removed


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Finds out before the work, not after it, whether a folder can be made and a file of a megabyte be written there.

    Leaves nothing, and makes no folder: of one that is still missing, the nearest above it is looked at.

    Raises:
        OSError: it can't be; the message says why.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_writable(folder + "/new")
    ...     os.listdir(folder)
    []
    """
    given, folder = os.fspath(folder), Path(os.path.realpath(folder))
    try:
        there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
        if there == folder or not there.is_dir():
            with contextlib.suppress(_Enough), atomic_path(folder / "probe") as lent:
                lent.write_bytes(bytes(_PROBE_BYTES))
                raise _Enough
        elif not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{there} may not be written")
        elif (usage := shutil.disk_usage(there)).total and usage.free < _PROBE_BYTES:  # some systems tell neither
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(f"can't write into the folder {given!r}: {error.strerror or error}; give another one") from error


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes that lock the same folder waiting; ends with the process that holds it, however that ends.

    On Windows, and on file systems without locks, nobody waits.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked_folder(folder):
    ...     write_atomically(folder + "/a.txt", b"one")
    """
    handle = None
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


class _Enough(Exception):
    """Ends a block of `atomic_path` without a file."""


def _lent_name(target: Path) -> str:
    stem = target.stem.encode("utf-8", "surrogateescape")[:80].decode("utf-8", "ignore")
    suffix = target.suffix if len(target.suffix.encode("utf-8", "surrogateescape")) <= 20 else ""
    return f".{stem}.sclip-{_host()}-{os.getpid():x}-{uuid.uuid4().hex[:16]}{suffix}"


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _left_behind(host: str, process: int, written: float) -> bool:
    if time.time() - written > _LEFT_FOR:
        return True
    if host != _host() or os.name == "nt":  # there os.kill(…, 0) would end the process
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _plain(obj: Any) -> Any:
    if isinstance(obj, (np.ndarray, np.generic)):
        obj = obj.tolist()
    if isinstance(obj, dict):
        return {_plain(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if obj is None or isinstance(obj, (str, int)):
        return obj
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    raise ArgumentTypeError(
        f"can't write {type(obj).__name__} ({obj!r:.60}) as JSON; "
        "give dicts, lists, text, numbers, booleans, None, numpy arrays or paths"
    )


def _replace(source: Path, target: Path) -> None:
    """os.replace; on Windows it is refused for the moment in which another process holds the target, so try again."""
    for wait in (0.01, 0.05, 0.2, 0.5) if os.name == "nt" else ():
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(wait)
    os.replace(source, target)
