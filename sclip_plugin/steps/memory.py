"""CorrCLIPv2's memory (the second version of arXiv 2411.10086): what unlabelled pictures of one's own domain say.

For each region of many pictures a key, the mean of an outside model's unit features, and a value, the unit mean of
dense CLIP features. A region of a new picture asks for the values of the 20 keys nearest to its own mean feature; half
of its scores are those of their mean, half what the method says of each pixel.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import without_autocast
from ..errors import SettingError
from ..fields import field_of
from ..guides import Guide, as_guide
from ..imaging.pictures import Picture, read_picture
from ..imaging.tiles import TiledMap
from ..memory.store import MemoryStore, picture_key
from ..methods.corrclip import looked, on_grid
from ..storage.fingerprint import fingerprint
from .base import PixelScores, Place, Step
from .registry import register_step

if TYPE_CHECKING:
    from PIL import Image

PICTURES_A_SHARD = 64


@register_step("memory")
@dataclass(frozen=True, kw_only=True)
class MemoryBank(Step):
    """Mixes in scores of similar regions from a memory bank.

    ``seg(picture, labels, masks="slic", steps="memory('bank/')")``

    Fields:
        folder: the folder that `build` made.
        guide: outside model of the keys; None: the model that the bank names. A bank that was built with a model object
            names none.
        second: segmenter of the second CLIP that the bank was built with; None: only the first CLIP's values.
        neighbours: number of nearest regions that are retrieved for each region.
        share: weight of the memory in the scores, 0 to 1; the method has the rest.
        search: ``"exact"``, ``"faiss"`` (the extra ``memory``), or ``"auto"``: exact below a million regions.

    Source: CorrCLIPv2, https://github.com/zdk258/CorrCLIP.

    Example:
        >>> import tempfile, sclip_plugin as sp
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scenes = [sp.draw_scene(seed=seed).picture for seed in range(2)]
        ...     masks = "slic(segments=20)"
        ...     bank = sp.MemoryBank.build(seg, scenes, folder, guide=seg.model.vision_model, masks=masks)
        ...     result = seg(scenes[0], ["cat", "grass"], masks=masks, steps=[bank])
        >>> result.label_map.shape == scenes[0].size[::-1]
        True
    """

    summary: ClassVar[str] = "mix in scores of similar regions of unlabelled pictures; needs masks"
    source: ClassVar[str] = "CorrCLIPv2, arXiv 2411.10086"
    on: ClassVar[Place] = "pixels"
    needs_regions: ClassVar[bool] = True
    folder: str | Path = field_of("", "folder that 'sclip memory build' made", holds="path")
    guide: str | nn.Module | Guide | None = field_of(
        None, "outside model of the keys; default: the one that the memory names", holds="model"
    )
    second: Any = dataclasses.field(default=None, repr=False)
    neighbours: int = field_of(20, "number of nearest regions that are retrieved for each region", low=1)
    share: float = field_of(0.5, "weight of the memory in the scores", low=0, high=1)
    search: Literal["auto", "exact", "faiss"] = field_of("auto", "exact, faiss, or exact below a million regions")

    store: MemoryStore = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not Path(self.folder).is_dir() or not str(self.folder):
            raise SettingError(
                f"memory got folder={str(self.folder)!r}, which is no folder; expected memory('BANK'), as "
                "'sclip memory build' makes it."
            )
        if not (self.guide is None or isinstance(self.guide, (str, nn.Module, Guide)) and self.guide):
            raise SettingError(f"memory got guide={self.guide!r}; expected a model's name, a folder, a model, or None.")
        object.__setattr__(self, "folder", str(self.folder))
        object.__setattr__(self, "store", _store_in(self.folder, Path(self.folder).stat().st_mtime_ns))

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.store)

    def identity(self) -> Any:
        """A hash of the bank's content and of the options."""
        second = None if self.second is None else self.second.model_identity()
        return ["memory", self.store.identity(), self.neighbours, self.share, self.search, second]

    @classmethod
    def build(
        cls,
        segmenter: Any,
        pictures: Iterable[Picture],
        folder: str | Path,
        *,
        guide: str | nn.Module | Guide,
        second: Any = None,
        settings: Any = None,
        progress: Callable[[int], object] = lambda done: None,
        **changes: Any,
    ) -> MemoryBank:
        """Build a memory bank from unlabelled pictures, or add to one. An interrupted build resumes.

        Args:
            segmenter: segmenter of the CLIP whose features are the values.
            pictures: pictures of any size, in any form that a segmenter takes.
            folder: a new folder, or a bank that the same models and settings made.
            guide: outside model of the keys, which sees each picture whole; see `sclip_plugin.guides.as_guide`.
            second: segmenter of another CLIP, whose values are stored too.
            settings, **changes: as for a segmenter's call, with ``masks``. The authors use
                ``method="corrclip", merge=None, resize_short_side=448, window=336, stride=112``.
            progress: called with the number of pictures done.

        Raises:
            SettingError: no masks, or a folder of other models or settings.
            PictureError: a picture can't be read.
        """
        chosen = (settings or segmenter.settings).changed(**changes)
        if chosen.masks is None:
            raise SettingError("a memory is of regions; also pass masks='slic' or masks='sam:NAME'.")
        segmenters = {"main": segmenter} | ({"second": second} if second is not None else {})
        outside = as_guide(guide, device=segmenter.device, dtype=torch.float32)
        made_by = {
            "guide": guide if isinstance(guide, str) else None,
            "guide's weights": fingerprint(outside.module.state_dict().values()),
            "models": {name: each.model_identity() for name, each in segmenters.items()},
            "settings": chosen.feature_identity(masks=True),
        }
        store = MemoryStore.create(folder, made_by)
        waiting: list[tuple[str, Image.Image]] = []
        there, done = set(store.pictures()), 0

        def flush() -> None:
            nonlocal done
            if waiting:
                store.append(*_regions_of(waiting, segmenters, outside, chosen))
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
        return cls(folder=str(folder), guide=guide, second=second)

    def support(self, queries: Tensor) -> Tensor:
        """Rows of the regions nearest to ``queries``, (R, C') unit: (R, neighbours), -1 where there are fewer."""
        return self.store.nearest(queries, self.neighbours, self.search)

    def value(self, name: str, rows: Tensor) -> Tensor:
        """The unit mean of the values of rows, (R, neighbours) to (R, D)."""
        there = (rows >= 0)[..., None].float()
        values = self.store.values(name, rows.clamp(min=0).flatten()).unflatten(0, rows.shape)
        return F.normalize((values * there).sum(dim=1) / there.sum(dim=1), dim=1)

    def __call__(self, given: PixelScores) -> TiledMap:
        """Scores at the size of the resized picture, with the memory's share."""
        # A picture that is not known is said before a model is fetched.
        regions, shown = given.shown.known_regions("memory"), given.shown.picture()
        guide = self.check(given.model(), given.device)
        whole = torch.from_numpy(regions.astype(np.int64))
        _, places = on_grid(whole.float(), given.cut).unique(return_inverse=True)
        pixels = pixels_of(shown)
        maps = TiledMap(looked(guide, pixels).permute(1, 2, 0).contiguous()).resized(given.cut)
        queries = F.normalize(region_means(maps, places.view(given.cut).to(given.device), unit=True), dim=1)
        rows = self.support(queries)
        support = [self.value("main", rows).to(given.device) @ given.words.text.T]
        if self.second is not None:
            text = self.second.text_bank.embed_vocabulary(given.words.vocabulary, given.words.templates)
            support.append(self.value("second", rows).to(given.device) @ text.to(given.device).T)
        of_regions = torch.stack(support).mean(dim=0)
        own = given.at(given.cut).full()
        mixed = (1 - self.share) * own + self.share * of_regions[places.to(given.device)].view_as(own)
        return TiledMap(mixed, limits=given.limits)

    def check(self, model: str, device: torch.device) -> Guide:
        """The outside model of the keys; refuses models that did not make the memory.

        Args:
            model: the identity of the segmenter's model.
        """
        checked, key = self.store.checked, (model, self.guide, self.second)
        if key not in checked:
            named = self.guide if self.guide is not None else self.store.made_by.get("guide")
            if named is None:
                raise SettingError(
                    f"the memory {self.folder} was made with an outside model in hand; expected "
                    "MemoryBank(folder=…, guide=the model)."
                )
            guide = as_guide(named, device=device, dtype=torch.float32)
            if fingerprint(guide.module.state_dict().values()) != self.store.said("guide's weights", str):
                raise SettingError(f"the memory {self.folder} was made with another outside model than {named!r:.80}.")
            models = self.store.said("models", dict)
            asked = {"main": model} | ({} if self.second is None else {"second": self.second.model_identity()})
            for name, identity in asked.items():
                if models.get(name) != identity:
                    which = "no" if name not in models else "another"
                    raise SettingError(
                        f"the memory {self.folder} holds values of {which} {'second ' if name == 'second' else ''}CLIP "
                        "than this one; build it with this model."
                    )
            checked[key] = guide
        return checked[key]


@functools.lru_cache(maxsize=4)
def _store_in(folder: str, changed: int) -> MemoryStore:
    """The store of a folder, opened once for all pictures; anew where the folder was ``changed``."""
    return MemoryStore(folder)


def pixels_of(picture: Image.Image) -> Tensor:
    """(3, H, W) of values 0 to 1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def region_means(maps: TiledMap, places: Tensor, unit: bool) -> Tensor:
    """Means of pixels' features over regions, a tile of pixels at a time.

    Args:
        maps: of D features.
        places: (H, W), of each pixel its region's number; -1 in none.
        unit: make unit vectors of pixels first.

    Returns:
        (R, D), R the largest number and one.
    """
    count = int(places.max()) + 1
    total = maps.values.new_zeros(count + 1, maps.values.shape[2])
    for place, tile in maps.tiles():
        values = (F.normalize(tile, dim=-1) if unit else tile).flatten(0, 1)
        total.index_add_(0, places[place].flatten() + 1, values)
    pixels = (places.flatten() + 1).bincount(minlength=count + 1).to(total)
    return (total / pixels.clamp(min=1)[:, None])[1:]


def _regions_of(
    pictures: list[tuple[str, Image.Image]], segmenters: dict[str, Any], guide: Guide, settings: Any
) -> tuple[list[tuple[str, int]], Tensor, dict[str, Tensor]]:
    """Keys and values of all regions of some pictures, as `MemoryStore.append` takes them."""
    places: list[Tensor] = []
    values: dict[str, list[Tensor]] = {}
    for name, segmenter in segmenters.items():
        prepared = segmenter.chain.prepared((p for _, p in pictures), settings, "raise", segmenter.paths)
        for index, (features, regions) in enumerate(segmenter.chain.raw_features(prepared, settings)):
            if len(places) == index:
                assert regions is not None, "there are masks"
                ids = torch.from_numpy(regions())
                found = ids[ids > 0].unique()
                number = torch.searchsorted(found, ids.clamp(min=0).contiguous())
                places.append(torch.where(ids > 0, number, -1))
            if int(places[index].max()) >= 0:
                means = region_means(features, places[index].to(segmenter.device), unit=False)
                values.setdefault(name, []).append(F.normalize(means, dim=1).cpu())
    keys, counts = [], []
    for (key, picture), where in zip(pictures, places, strict=True):
        counts.append((key, int(where.max()) + 1))
        if counts[-1][1]:
            with torch.inference_mode(), without_autocast(where.device):
                maps = TiledMap(looked(guide, pixels_of(picture)).permute(1, 2, 0).contiguous())
                keys.append(
                    region_means(
                        maps.resized((where.shape[0], where.shape[1])), where.to(maps.values.device), unit=True
                    ).cpu()
                )
    if not keys:
        return counts, torch.zeros(0, 0), {name: torch.zeros(0, 0) for name in segmenters}
    return counts, torch.cat(keys), {name: torch.cat(parts) for name, parts in values.items()}
