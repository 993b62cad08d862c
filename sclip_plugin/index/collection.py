"""A collection of pictures that is searched by words, with the answer's place."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import FileFormatError, LabelError, PictureError, SettingError
from ..imaging.pictures import Picture
from ..segment.segmenter import Segmenter
from ..settings import Settings
from ..storage.files import locked_folder, sweep, write_atomically
from ..storage.reading import brief
from ..text.labels import Vocabulary
from ..text.wordbank import Report
from ..text.wordlist import AUTO, auto_of
from .building import Look, Progress, look_here, update
from .naming import names_in
from .nearest import update_codes
from .presence import null_of, numbers
from .regions import REGIONS, reduced
from .results import Hit
from .searching import EXACT_UP_TO, Found, Question, Searcher
from .store import IndexStore, check_model

if TYPE_CHECKING:
    Words = str | Sequence[str | Sequence[str]] | Mapping[str, Any] | Tensor | np.ndarray | Vocabulary

By = Literal["place", "picture"]
LOOKED_FOR = 32
"""Pictures that are looked for in another folder, to tell whether the collection was moved there."""


class Index:
    """A folder's pictures, searched by words.

    Args:
        folder: as `build` made it.
        segmenter: of the model that made it, whose text tower is asked.

    Raises:
        FileFormatError: no such folder, or no index.
        SettingError: another model made it.
        MissingPackageError: without the extra ``index``.

    Example:
        >>> import tempfile, pathlib, sclip_plugin as sp
        >>> folder = tempfile.TemporaryDirectory()
        >>> photos = pathlib.Path(folder.name) / "photos"
        >>> photos.mkdir()
        >>> for seed in range(4):
        ...     sp.draw_scene(seed).picture.save(photos / f"{seed}.png")
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> index = sp.Index.build(seg, photos, photos / "index")
        >>> best = index.search(sp.draw_scene(2).labels[0], top=3)[0]
        >>> best.path, best.mask().shape == best.size
        ('2.png', True)
        >>> folder.cleanup()
    """

    def __init__(self, folder: str | Path, segmenter: Segmenter) -> None:
        self.store = IndexStore(folder)
        self.segmenter = segmenter
        check_model(self.store, segmenter)
        self._searcher = Searcher(self.store)
        self._null: Any = None  # learned once it is asked for
        self._lock = threading.Lock()  # a server asks from several threads

    @classmethod
    def build(
        cls,
        segmenter: Segmenter,
        pictures: str | Path,
        folder: str | Path,
        *,
        name: str | None = None,
        settings: Settings | None = None,
        progress: Callable[[Progress], object] = lambda said: None,
        look: Callable[[Segmenter, Path, Settings], Look] = look_here,
        **changes: Any,
    ) -> Index:
        """Bring an index up to date with a folder of pictures: a new one, or one that is there.

        A file whose size and time are those of the index is not read; one whose content is in the index is not looked
        at again, whatever it is called now. A picture that can't be read is noted with its error (`failed`) and tried
        again by the next build. What was looked at is kept every 512 pictures or every minute, whichever is first;
        a build that was killed goes on there. Several may run at once: each picture is in the index once.

        Args:
            segmenter: of the model that looks at them.
            pictures: the folder; it is searched through, but for hidden files. An index is of one folder. That may be
                moved or copied: another folder is taken for it if it holds most of the index's pictures, or if none of
                them is left where they were.
            folder: of the index.
            name: by which ``sclip search`` loads the model.
            settings, **changes: as for a segmenter's call; those that decide the features count. For an index that is
                there they are its own, and others are refused.
            progress: told how far it is, each time that something was kept.
            look: where pictures are looked at: here, or by `sclip_plugin.integrations.ray.RayLook`'s workers.

        Raises:
            SettingError: an index of another model, of other settings or of another folder; settings that hold a
                method or a model in hand, which a file can't name.
            PictureError: no pictures in the folder.
        """
        root, folder = Path(pictures).expanduser().resolve(), Path(folder).expanduser()
        if not root.is_dir():
            raise PictureError(f"{pictures} is no folder; expected one with pictures.")
        if settings is None:
            named = cls.named(folder)
            settings = _settings(named) if named else segmenter.settings
        chosen = settings.changed(**changes)
        plain = {name: getattr(chosen, name) for name in chosen.deciding_features()}
        named = {"model": name, "dtype": segmenter.dtype, "settings": plain}
        notes: dict[str, Any] = {"named": named, "answers": segmenter.answers(), **_place(root, folder)}
        try:
            json.dumps(notes)
        except TypeError as error:
            raise SettingError(
                f"an index says what made it, and these settings hold a method or a model in hand ({error}); name the "
                "method, and an outside model by its name or folder."
            ) from error
        made_by = {"model": segmenter.model_identity(), "settings": chosen.feature_identity(), "regions": REGIONS}
        store = IndexStore.create(folder, made_by, notes)
        check_model(store, segmenter)
        _moved(store, root)
        sweep(store.folder)
        update(store, root, look(segmenter, root, chosen), progress)
        update_codes(store, EXACT_UP_TO)
        return cls(folder, segmenter)

    @staticmethod
    def named(folder: str | Path) -> dict[str, Any]:
        """The ``model``, ``dtype`` and ``settings`` that an index was made with, by name; nothing where there is none.

        Raises:
            FileFormatError: something else is there.
        """
        if not (Path(folder).expanduser() / IndexStore.HEAD).exists():
            return {}
        return named_by(IndexStore(folder))

    def __len__(self) -> int:
        """How many pictures can be found."""
        self._searcher.refresh()
        return len(self._searcher.paths)

    @property
    def root(self) -> Path:
        """The folder whose pictures it has; also after both were moved together."""
        root, near = (Path(self.store.said(key, str)) for key in ("root", "near"))
        beside = self.store.folder / near
        return beside.resolve() if not root.is_dir() and beside.is_dir() else root

    def failed(self) -> dict[str, str]:
        """The files that are no pictures, with the reason."""
        self.store.refresh()
        rows = ((path, self.store.rows[number]) for path, number in self.store.files.items())
        return {path: row.error for path, row in rows if row.error is not None}

    def example(self, picture: Picture, at: tuple[int, int] | None = None) -> Tensor:
        """A vector to search by, of a picture that need not be in the index.

        Args:
            picture: anything that a segmenter takes.
            at: (x, y), a pixel of it: the vector is that of the region there, as the index would keep it. None: that
                of the whole picture, for ``by="picture"``.

        Returns:
            (D,) float32.

        Raises:
            PictureError: no picture, or a pixel outside it.
        """
        settings = _settings(self.named(self.store.folder))
        encoded = self.segmenter.encode(picture, settings)
        if at is None:
            return encoded.image.float().cpu()
        height, width = encoded.size
        if not (0 <= at[0] < width and 0 <= at[1] < height):
            raise PictureError(f"the pixel {at[0]},{at[1]} lies outside the picture of {width} x {height} pixels.")
        kept = reduced(encoded.features(), encoded.image)
        rows, columns = kept.map.shape
        region = kept.map[at[1] * rows // height, at[0] * columns // width]
        return torch.from_numpy(kept.vectors[region].astype(np.float32) * kept.scales[region])

    def search(
        self,
        words: Words,
        top: int = 20,
        *,
        without: Words | None = None,
        under: str | None = None,
        by: By = "place",
        **changes: Any,
    ) -> list[Hit]:
        """The pictures that hold something, and where.

        Args:
            words: as labels are: a word; a list of words, which all have to be there (a list inside it names
                synonyms); a dict of names to words or vectors, as `Segmenter.vector_of` gives them of a region of an
                example; such a vector alone; or labels that were tuned.
            top: how many, the best first.
            without: words that shall not be there.
            under: a folder below the collection's, or a pattern of paths such as ``"2024/*.jpg"``.
            by: ``"place"`` ranks by the region that is most like a word, ``"picture"`` by the whole picture's
                embedding. The second suits words about a picture as a whole, and overlooks what is small.
            **changes: ``templates``.

        Returns:
            A `Hit` each. Its score is the cosine of the word with the picture's best region; of several words the
            lowest of theirs, less half of the highest of those without.

        Raises:
            LabelError: no words, or a vector of another width.
            SettingError: none or a negative number of pictures, an unknown ``by``.
        """
        if by not in get_args(By) or top < 1:
            raise SettingError(f"by={by!r}, top={top!r}; expected by='place' or by='picture', and top of 1 or more.")
        settings = self.segmenter.settings.changed(**changes)
        with self._lock:
            self._searcher.refresh()
            wanted, vectors = self._asked(words, settings)
            class_of_name, constants = [*wanted.class_of_name], wanted.constants_of_names()
            if without is not None:
                others, away = self._asked(without, settings)
                vectors = torch.cat([vectors, away])
                class_of_name += [len(wanted.labels) + word for word in others.class_of_name]
                constants += others.constants_of_names()
            of_names = np.array(class_of_name), np.array(constants, np.float32)
            given = frozenset(wanted.class_of_name[index] for index, _ in wanted.vectors)
            question = Question(wanted.labels, vectors.float().cpu().numpy(), *of_names, given)
            found = self._searcher.search(question, top, under, by == "picture")
            if found and self._null is None:
                self._null = null_of(self._searcher, self.segmenter)
            return [self._hit(each, question) for each in found]

    def names(self, labels: Any = AUTO, report: Report | None = None) -> dict[str, list[str]]:
        """What is in the collection, without a vocabulary: the pictures of each name, the largest share first.

        Args:
            labels, report: as for `Segmenter.names`.

        Returns:
            Paths by name; the name of most pictures first.

        Raises:
            LabelError: the list can't be read.
            SettingError: fewer than five pictures.
        """
        with self._lock:
            self._searcher.refresh()
            if self._null is None:
                self._null = null_of(self._searcher, self.segmenter)
            return names_in(self._searcher, self.segmenter, auto_of(labels), self._null, report)

    def _asked(self, words: Words, settings: Settings) -> tuple[Vocabulary, Tensor]:
        labels: Any = [words] if isinstance(words, str) else {"example": words} if hasattr(words, "shape") else words
        vocabulary, vectors = self.segmenter.text_embeddings(labels, settings.changed(background=False))
        width = self.store.width or vectors.shape[1]
        if vectors.shape[1] != width:
            raise LabelError(
                f"{vocabulary.labels[0]!r} is a vector of {vectors.shape[1]} values; expected {width}, the width of "
                "the space that the index's model shares with text."
            )
        return vocabulary, vectors

    def _hit(self, found: Found, question: Question) -> Hit:
        scores = dict(zip(question.words, map(float, found.of_words), strict=False))
        return Hit(
            path=found.path,
            file=self.root / found.path,
            score=found.score,
            scores=scores,
            size=self.store.rows[found.row].size,
            grid=self.store.map(found.row),
            cosines=self._searcher.regions(found.row, question)[:, : len(question.words)],
            presence=numbers(self._null, self._searcher.vectors(found.row), question),
            null=self._null,
        )


def _place(root: Path, folder: Path) -> dict[str, str]:
    """Where a collection lies, and where that is from the index."""
    try:
        near = os.path.relpath(root, folder.resolve())
    except ValueError:  # on another drive
        near = str(root)
    return {"root": str(root), "near": near}


def _moved(store: IndexStore, root: Path) -> None:
    """Take another folder than the index is of where its pictures have gone there; refuse it otherwise."""
    place = _place(root, store.folder)
    if {key: store.said(key, str) for key in place} == place:
        return
    before = Path(store.said("root", str))
    if before != root and _left(store, before) and not _holds_most(store, root):
        raise SettingError(
            f"the index {store.folder} is of the pictures in {before}, not in {root}; give it another folder."
        )
    with locked_folder(store.folder):
        store.made_by |= place
        write_atomically(store.folder / store.HEAD, json.dumps(store.made_by, indent=1).encode())


def named_by(store: IndexStore) -> dict[str, Any]:
    """The ``model``, ``dtype`` and ``settings`` that an index was made with, by name."""
    named = store.said("named", dict)
    if not all(isinstance(named.get(key), str | None) for key in ("model", "dtype")):
        raise FileFormatError(f"{store.folder / store.HEAD} was changed: 'named' is {brief(named)}; build it anew.")
    return named


def _settings(named: dict[str, Any]) -> Settings:
    """Those that an index says that it was made with."""
    plain = named.get("settings")
    if not isinstance(plain, dict) or not all(isinstance(name, str) for name in plain):
        raise FileFormatError(f"the index says that its settings are {brief(plain)}; expected them by name.")
    return Settings().changed(**plain)


def _left(store: IndexStore, root: Path) -> bool:
    return root.is_dir() and (not store.files or any((root / path).is_file() for path in store.files))


def _holds_most(store: IndexStore, root: Path) -> bool:
    """Whether most of some pictures of an index are in a folder, by path and content."""
    paths = list(store.files)
    some = paths[:: max(1, len(paths) // LOOKED_FOR)]
    found = 0
    for path in some:
        row = store.rows[store.files[path]]
        file = root / path
        if file.is_file() and file.stat().st_size == row.length:
            found += row.sha256 == hashlib.sha256(file.read_bytes()).digest()
    return found > len(some) / 2
