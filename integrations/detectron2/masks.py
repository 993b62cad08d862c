"""Ground truth as Detectron2 expects it, whatever a benchmark's files hold: classes from 0 on, one channel.

Mask files start at 1 with 0 left out, or carry a palette; Detectron2's evaluators read them raw, through `PathManager`.
So a data set's record names its mask as ``sclip-mask://voc20!/data/…/2007_000033.png``, and `PathManager` converts it
on reading. No file is written, and a label that names no class is an error instead of a wrong figure.
"""

from __future__ import annotations

import io
from functools import cache
from typing import IO, Any

import numpy as np
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image

from sclip_plugin.errors import SettingError
from sclip_plugin.evaluation import read_mask
from sclip_plugin.protocols import Benchmark, load_benchmark

PREFIX = "sclip-mask://"
_load_benchmark = cache(load_benchmark)


class MaskPath(str):
    """The address of a mask. Unpickling one imports this module, so that a loader's worker can open it."""

    __slots__ = ()


def mask_path(benchmark: Benchmark, path: object) -> MaskPath:
    """The address under which `PathManager` opens a mask file of a benchmark as classes.

    Args:
        benchmark: one that ships, or one read from a YAML file of your own.
        path: the mask file.
    """
    shipped = benchmark.path is None or _is_shipped(benchmark)
    return MaskPath(f"{PREFIX}{benchmark.name if shipped else benchmark.path}!{path}")


def _is_shipped(benchmark: Benchmark) -> bool:
    try:
        return load_benchmark(benchmark.name).path == benchmark.path
    except ValueError:
        return False


class MaskHandler(PathHandler):
    """Opens ``sclip-mask://BENCHMARK!FILE`` as an 8-bit PNG (16-bit beyond 255) of classes and the ignored value."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[bytes]:
        if mode != "rb":
            raise SettingError(f"{path} was opened with mode {mode!r}; masks are read with 'rb'.")
        benchmark, _, file = path.removeprefix(PREFIX).partition("!")
        classes = read_mask(file, _load_benchmark(benchmark))
        stream = io.BytesIO()
        dtype = np.uint8 if classes.size == 0 or int(classes.max()) < 256 else np.uint16
        Image.fromarray(classes.astype(dtype)).save(stream, format="PNG", compress_level=0)
        stream.seek(0)
        return stream

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return path.partition("!")[2]

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return PathManager.isfile(path.partition("!")[2])


PathManager.register_handler(MaskHandler(), allow_override=True)
