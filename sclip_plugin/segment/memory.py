"""CorrCLIPv2's memory (the second version of arXiv 2411.10086): what unlabelled pictures of one's own domain say.

For each region of many pictures a key, the mean of a vision model's unit features, and a value, the unit mean of dense
CLIP features. A region of a new picture asks for the values of the 20 keys nearest to its own mean feature; half of its
scores are those of their mean, half what the method says of each pixel.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import without_autocast
from ..errors import SettingError
from ..fields import check_fields, field_of
from ..fingerprint import fingerprint
from ..guides import Guide, as_guide
from ..imaging.pictures import Picture, read_picture
from ..memory.store import MemoryStore, picture_key
from ..methods.corrclip import looked, on_grid
from ..settings import Settings
from .running import Seen
from .windows import LogitMap

if TYPE_CHECKING:
    from PIL import Image

    from ..text.labels import Vocabulary
    from .segmenter import Segmenter

PICTURES_A_SHARD = 64


@dataclass(frozen=True, kw_only=True)
class MemoryBank:
    """A memory, and how it is asked: ``seg(picture, labels, masks="slic", memory="bank/")``.

    Fields:
        folder: as `build` made it.
        vfm: the vision model of the keys; None for that whose name the memory holds. A model in hand has no name there.
        second: a segmenter of the second CLIP that the memory was built with; None: the first CLIP's values alone.
        neighbours: regions that a region asks for.
        share: of the memory in the scores; the method has the rest.
        search: ``"exact"``, ``"faiss"`` (the extra ``memory``), or ``"auto"``: exact below a million regions.

    Source: CorrCLIPv2, https://github.com/zdk258/CorrCLIP.

    Example:
        >>> import tempfile, sclip_plugin as sp
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scenes = [sp.draw_scene(seed=seed).picture for seed in range(2)]
        ...     bank = sp.MemoryBank.build(seg, scenes, folder, vfm=seg.model.vision_model, masks="slic(segments=20)")
        ...     result = seg(scenes[0], ["cat", "grass"], masks="slic(segments=20)", memory=bank)
        >>> result.label_map.shape == scenes[0].size[::-1]
        True
    """

    folder: str | Path
    vfm: str | nn.Module | Guide | None = None
    second: Segmenter | None = dataclasses.field(default=None, repr=False)
    neighbours: int = field_of(20, "regions that a region asks for", low=1)
    share: float = field_of(0.5, "of the memory in the scores", low=0, high=1)
    search: Literal["auto", "exact", "faiss"] = field_of("auto", "exact, faiss, or exact below a million regions")

    def __post_init__(self) -> None:
        check_fields(self, "MemoryBank")
        object.__setattr__(self, "store", MemoryStore(self.folder))
        object.__setattr__(self, "_checked", {})

    store: MemoryStore = dataclasses.field(init=False, repr=False, compare=False)
    _checked: dict[int, Any] = dataclasses.field(init=False, repr=False, compare=False)

    def __len__(self) -> int:
        """How many regions it holds."""
        return len(self.store)

    def identity(self) -> str:
        """A hash of all that it says and of how it is asked."""
        return f"{self.store.identity()} {self.neighbours} {self.share} {self.search} {self.second is not None}"

    @classmethod
    def build(
        cls,
        segmenter: Segmenter,
        pictures: Iterable[Picture],
        folder: str | Path,
        *,
        vfm: str | nn.Module | Guide,
        second: Segmenter | None = None,
        settings: Settings | None = None,
        progress: Callable[[int], object] = lambda done: None,
        **changes: Any,
    ) -> MemoryBank:
        """Remember pictures. What is in the folder already is left out, so a build that was killed goes on.

        Args:
            segmenter: of the CLIP whose features are the values.
            pictures: of any size, in any form that a segmenter takes; labels are not needed.
            folder: new, or of a memory that the same models and settings made; it is added to.
            vfm: the vision model of the keys, which sees each picture whole; see `sclip_plugin.guides.as_guide`.
            second: a segmenter of another CLIP, whose values are stored beside.
            settings, **changes: as for a segmenter's call, ``masks`` among them; authors have
                ``method="corrclip", merge=None, resize_short_side=448, window=336, stride=112``.
            progress: told how many pictures are done.

        Raises:
            SettingError: no masks, or a folder that others made.
            PictureError: a picture that can't be read.
        """
        chosen = (settings or segmenter.settings).changed(**changes)
        if chosen.masks is None:
            raise SettingError("a memory is of regions; expected masks, such as masks='slic' or 'sam:NAME'.")
        segmenters = {"main": segmenter} | ({"second": second} if second is not None else {})
        guide = segmenter_guide(vfm, segmenter)
        plain = Settings().changed(
            **{
                name: getattr(chosen, name)
                for name in ("method", "method_options", "resize_short_side", "window", "stride", "remainder", "masks")
            }
        )
        made_by = {
            "vfm": vfm if isinstance(vfm, str) else None,
            "vfm weights": fingerprint(guide.module.state_dict().values()),
            "models": {name: model_of(each) for name, each in segmenters.items()},
            "settings": plain.identity(),
        }
        store = MemoryStore.create(folder, made_by)
        waiting: list[tuple[str, Image.Image]] = []
        there, done = set(store.pictures()), 0

        def flush() -> None:
            nonlocal done
            if waiting:
                store.append(*_regions_of(waiting, segmenters, guide, chosen))
            done += len(waiting)
            waiting.clear()
            progress(done)

        for picture in pictures:
            read = read_picture(picture, paths=segmenter.paths)
            key = picture_key(np.asarray(read))
            if key in there:
                done += 1
                continue
            there.add(key)
            waiting.append((key, read))
            if len(waiting) == PICTURES_A_SHARD:
                flush()
        flush()
        return cls(folder=folder, vfm=vfm, second=second)

    def support(self, queries: Tensor) -> Tensor:
        """Rows of the regions nearest to ``queries``, (R, C') unit: (R, neighbours), -1 where there are fewer."""
        return self.store.nearest(queries, self.neighbours, self.search)

    def value(self, name: str, rows: Tensor) -> Tensor:
        """The unit mean of the values of rows, (R, neighbours) to (R, D)."""
        there = (rows >= 0)[..., None].float()
        values = self.store.values(name, rows.clamp(min=0).flatten()).unflatten(0, rows.shape)
        return F.normalize((values * there).sum(dim=1) / there.sum(dim=1), dim=1)

    def recalled(
        self, logits: LogitMap, seen: Seen, vocabulary: Vocabulary, settings: Settings, segmenter: Segmenter
    ) -> LogitMap:
        """The method's scores of pixels, at the size at which windows were cut, with the memory's share."""
        guide = self.check(segmenter)
        if seen.regions is None:
            raise SettingError(
                "a memory is asked region by region; expected masks, such as masks='slic' or 'sam:NAME'."
            )
        device = logits.logits.device
        whole = torch.from_numpy(seen.regions().astype(np.int64))
        _, places = on_grid(whole.float(), logits.size).unique(return_inverse=True)
        shown = seen.picture if seen.picture is not None else segmenter.picture_of(seen.pixels)
        maps = LogitMap(looked(guide, pixels_of(shown)).permute(1, 2, 0).contiguous()).resized(logits.size)
        queries = F.normalize(region_means(maps, places.view(logits.size).to(device), unit=True), dim=1)
        rows = self.support(queries)
        support = []
        for name, each in {"main": segmenter, "second": self.second}.items():
            if each is not None:
                text = each.text_bank.embed_vocabulary(vocabulary, settings.templates).to(device)
                support.append(self.value(name, rows).to(device) @ text.T)
        of_regions = torch.stack(support).mean(dim=0)
        own = logits.full()
        return LogitMap((1 - self.share) * own + self.share * of_regions[places.to(device)].view_as(own), None, None)

    def check(self, segmenter: Segmenter) -> Guide:
        """The vision model of the keys; refuses models that did not make the memory."""
        if id(segmenter) not in self._checked:
            vfm = self.vfm or self.store.made_by.get("vfm")
            if vfm is None:
                raise SettingError(
                    f"the memory {self.folder} was made with a vision model in hand; expected "
                    "MemoryBank(folder=…, vfm=the model)."
                )
            guide = segmenter_guide(vfm, segmenter)
            if fingerprint(guide.module.state_dict().values()) != self.store.said("vfm weights", str):
                raise SettingError(f"the memory {self.folder} was made with another vision model than {vfm!r:.80}.")
            models = self.store.said("models", dict)
            for name, each in {"main": segmenter, "second": self.second}.items():
                if each is not None and models.get(name) != model_of(each):
                    raise SettingError(
                        f"the memory {self.folder} holds values of {'no' if name not in models else 'another'} "
                        f"{'second ' if name == 'second' else ''}CLIP than this one; build it with this model."
                    )
            self._checked[id(segmenter)] = (guide, segmenter)  # kept, so that its id stays its own
        return self._checked[id(segmenter)][0]


@functools.lru_cache(maxsize=4)
def _bank_in(folder: str) -> MemoryBank:
    return MemoryBank(folder=folder)


def memory_of(settings: Settings) -> MemoryBank:
    """The memory that settings name, or have in hand."""
    return _bank_in(settings.memory) if isinstance(settings.memory, str) else settings.memory  # type: ignore[return-value]


def segmenter_guide(vfm: str | nn.Module | Guide, segmenter: Segmenter) -> Guide:
    return as_guide(vfm, device=segmenter.device, dtype=torch.float32)


def model_of(segmenter: Segmenter) -> str:
    """What values depend on: the weights, and what pixels are normalised with."""
    statistics = fingerprint([segmenter._mean, segmenter._std])
    return segmenter.weights()[:32] + statistics[:16]


def pixels_of(picture: Image.Image) -> Tensor:
    """(3, H, W) of values 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def region_means(maps: LogitMap, places: Tensor, unit: bool) -> Tensor:
    """Means of pixels' features over regions, a tile of pixels at a time.

    Args:
        maps: of D features.
        places: (H, W), of each pixel its region's number; -1 in none.
        unit: make unit vectors of pixels first.

    Returns:
        (R, D), R the largest number and one.
    """
    count = int(places.max()) + 1
    total = maps.logits.new_zeros(count + 1, maps.logits.shape[2])
    for place, tile in maps.tiles():
        values = (F.normalize(tile, dim=-1) if unit else tile).flatten(0, 1)
        total.index_add_(0, places[place].flatten() + 1, values)
    pixels = (places.flatten() + 1).bincount(minlength=count + 1).to(total)
    return (total / pixels.clamp(min=1)[:, None])[1:]


def _regions_of(
    pictures: list[tuple[str, Image.Image]], segmenters: dict[str, Segmenter], guide: Guide, settings: Settings
) -> tuple[list[tuple[str, int]], Tensor, dict[str, Tensor]]:
    """Keys and values of all regions of some pictures, as `MemoryStore.append` takes them."""
    places: list[Tensor] = []
    values: dict[str, list[Tensor]] = {}
    for name, segmenter in segmenters.items():
        for index, (logits, regions) in enumerate(segmenter.raw_features((p for _, p in pictures), settings)):
            if len(places) == index:
                assert regions is not None, "there are masks"
                ids = torch.from_numpy(regions())
                found = ids[ids > 0].unique()
                number = torch.searchsorted(found, ids.clamp(min=0).contiguous())
                places.append(torch.where(ids > 0, number, -1))
            if int(places[index].max()) >= 0:
                means = region_means(logits, places[index].to(segmenter.device), unit=False)
                values.setdefault(name, []).append(F.normalize(means, dim=1).cpu())
    keys, counts = [], []
    for (key, picture), where in zip(pictures, places, strict=True):
        counts.append((key, int(where.max()) + 1))
        if counts[-1][1]:
            with torch.inference_mode(), without_autocast(where.device):
                maps = LogitMap(looked(guide, pixels_of(picture)).permute(1, 2, 0).contiguous())
                keys.append(
                    region_means(
                        maps.resized((where.shape[0], where.shape[1])), where.to(maps.logits.device), unit=True
                    ).cpu()
                )
    if not keys:
        return counts, torch.zeros(0, 0), {name: torch.zeros(0, 0) for name in segmenters}
    return counts, torch.cat(keys), {name: torch.cat(parts) for name, parts in values.items()}
