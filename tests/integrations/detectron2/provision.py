"""Detectron2 for the tests: v0.6 from the package index, pinned by hash, without compiling anything.

    python tests/integrations/detectron2/provision.py     # fetches it; the tests do the same by themselves

What Detectron2 itself imports is among the package's ``test`` extra.
``pb1-detectron2`` 0.6 is a source distribution of the tag v0.6: the same Python files, without the C++ sources of
deformable and rotated operators, which no semantic segmentation needs. Where a Detectron2 is installed, that one is
tested instead. `stand_ins` makes v0.6, written in 2021, work with NumPy and Pillow of today.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path

PROJECT, VERSION = "pb1-detectron2", "0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# Newer versions refuse a distribution that names a dependency by URL, even in an extra that nobody asks for.
OLD_PIP = ("pip==23.3.2", "setuptools<81", "wheel")


def installed() -> bool:
    """Whether this environment has a Detectron2 of its own."""
    return importlib.util.find_spec("detectron2") is not None


def folder() -> Path:
    """Where the unpacked files are kept: in the user's cache, or in ``SCLIP_TEST_CACHE``."""
    import platformdirs

    cache = os.environ.get("SCLIP_TEST_CACHE") or platformdirs.user_cache_dir("sclip_plugin_tests")
    return Path(cache) / f"detectron2-{VERSION}-{SHA256[:12]}"


def provide() -> Path:
    """The folder to put on ``sys.path``; fetched on the first call.

    Raises:
        RuntimeError: it could not be fetched, or is not the file that was pinned.
    """
    target = folder()
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        archive = _download(Path(work))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != SHA256:
            raise RuntimeError(f"{archive.name} has the SHA-256 {digest}; expected {SHA256}.")
        unpacked = Path(work) / "unpacked"
        with tarfile.open(archive) as file:
            inside = f"{PROJECT}-{VERSION}/detectron2/"
            members = [
                member for member in file if member.name.startswith(inside) and (member.isfile() or member.isdir())
            ]
            for member in members:
                member.name = member.name.removeprefix(f"{PROJECT}-{VERSION}/")
            file.extractall(unpacked, members, filter="data")
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    return target


def _download(work: Path) -> Path:
    """The source distribution, by an older pip used for this alone; pip checks the hash before it looks inside."""
    pinned = work / "requirements.txt"
    pinned.write_text(f"{PROJECT}=={VERSION} --hash=sha256:{SHA256}\n")
    old_pip = str(work / "pip")
    _pip("install", "--target", old_pip, "--no-deps", *OLD_PIP)
    # The distribution's metadata come from its setup.py, which imports torch: hence no isolation.
    options = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes")
    _pip("download", *options, "--dest", str(work), "--requirement", str(pinned), path=old_pip)
    return work / f"{PROJECT}-{VERSION}.tar.gz"


def _pip(*arguments: str, path: str | None = None) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if path:
        environment["PYTHONPATH"] = path
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed; the tests of the Detectron2 adapter need it:\n{done.stdout}")


def stand_ins() -> None:
    """What v0.6 needs to be imported: the compiled module that is not there, names that NumPy and Pillow dropped."""
    import numpy as np
    from PIL import Image

    compiled = types.ModuleType("detectron2._C")
    # What `default_setup` writes into the log.
    for question, answer in (("get_compiler_version", "none"), ("get_cuda_version", "none"), ("has_cuda", False)):
        setattr(compiled, question, lambda answer=answer: answer)
    sys.modules.setdefault("detectron2._C", compiled)
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.Resampling.BILINEAR  # type: ignore[attr-defined]
    for name, builtin in (("bool", bool), ("int", int), ("float", float), ("object", object)):
        if name not in np.__dict__:
            setattr(np, name, builtin)


def make_importable() -> None:
    """After this, ``import detectron2`` works, here and in processes that are started from here with `environment`."""
    if not installed():
        sys.path.append(str(provide()))
        stand_ins()


if __name__ == "__main__":
    print("installed" if installed() else provide())
