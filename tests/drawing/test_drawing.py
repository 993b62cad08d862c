"""Facts about the pictures: what they show, where, and that nothing becomes unreadable."""

from __future__ import annotations

import doctest
import importlib
import io
import shutil

import numpy as np
import pytest
from PIL import Image

import sclip_plugin.draw.overlay
from sclip_plugin.draw import fontfiles, fonts
from sclip_plugin.draw.colours import colours_of
from sclip_plugin.draw.legend import Entry
from sclip_plugin.draw.overlay import heatmap, overlay, palette_png, side_by_side

WHITE = Image.new("RGB", (400, 300), "white")
BLANK = {
    0x20,
    0xA0,
    0xAD,
    0x1680,
    0x180E,
    *range(0x2000, 0x2010),
    *range(0x2028, 0x2030),
    0x205F,
    *range(0x2060, 0x2070),
    0x3000,
    0xFEFF,
}
MISSING = "\U000ffffe"  # a private character that no font has


def halves(width=400, height=300, left=0, right=1) -> np.ndarray:
    label_map = np.full((height, width), left)
    label_map[:, width // 2 :] = right
    return label_map


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The texts that are drawn while the test runs, in order."""
    texts: list[str] = []
    draw = fonts.draw_text

    def noted(image, xy, text, *rest):
        texts.append(text)
        return draw(image, xy, text, *rest)

    monkeypatch.setattr(fonts, "draw_text", noted)
    return texts


@pytest.fixture
def forget_fonts():
    """Lets a test change which fonts there are."""

    def forget():
        for module in (fonts, fontfiles):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
        fonts._used.clear()
        fonts._missing.clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize(
    "name", ["storage.files", "draw.overlay", "draw.colours", "draw.fonts", "draw.legend", "draw.sheet"]
)
def test_the_examples_in_the_docstrings_run(name):
    module = importlib.import_module(f"sclip_plugin.{name}")
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


# ---- overlay -------------------------------------------------------------------------------------------------------


def test_without_legend_the_overlay_has_the_size_of_the_picture():
    for size in ((1, 1), (1, 50), (400, 300)):
        assert overlay(Image.new("L", size), np.zeros(size[::-1], int), ["cat"], legend=False).size == size


def test_regions_have_their_colour_blended_by_the_opacity():
    shown = np.asarray(overlay(WHITE, halves(), ["cat", "dog"], opacity=0.5, legend=False)).astype(int)
    cat, dog = colours_of(["cat", "dog"])
    for x, colour in ((50, cat), (350, dog)):
        assert np.abs(shown[150, x] - (colour / 2 + 127.5)).max() <= 2


def test_borders_have_the_full_colour_on_each_side():
    shown = np.asarray(overlay(WHITE, halves(), ["cat", "dog"], opacity=0.5, legend=False))
    cat, dog = colours_of(["cat", "dog"])
    assert (shown[:, 199] == cat).all() and (shown[:, 200] == dog).all()
    assert (shown[:, 195] != cat).any() and (shown[:, 205] != dog).any()


def test_stripes_leave_no_trace(monkeypatch):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (90, 70, 3), dtype=np.uint8))
    label_map, scores = rng.integers(-1, 3, (9, 7)).repeat(10, 0).repeat(10, 1), rng.random((90, 70))
    once = overlay(picture, label_map, list("abc")), heatmap(picture, scores, "a")
    monkeypatch.setattr(sclip_plugin.draw.overlay, "STRIPE", 700)
    again = overlay(picture, label_map, list("abc")), heatmap(picture, scores, "a")
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(once, again, strict=True))


def test_what_has_no_label_is_greyed_not_coloured():
    red = Image.new("RGB", (400, 300), (200, 0, 0))
    shown = np.asarray(overlay(red, halves(left=-1), ["cat", "dog"], legend=False))[150, 50].astype(int)
    assert shown[0] > shown[1] == shown[2] > 0
    grey = np.asarray(overlay(WHITE, halves(left=-1), ["cat", "dog"], legend=False))[150, 50]
    assert (grey == 255).all()


@pytest.mark.parametrize("name", ["background", "Background", "unlabelled", "void"])
def test_background_is_not_painted(name):
    red = Image.new("RGB", (400, 300), (200, 0, 0))
    shown = np.asarray(overlay(red, halves(), [name, "dog"], legend=False))
    nothing = np.asarray(overlay(red, halves(left=-1), [name, "dog"], legend=False))
    assert np.array_equal(shown, nothing)


def test_outlines_leave_the_picture_as_it_is_but_for_lines():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    shown = np.asarray(overlay(noise, halves(), ["cat", "dog"], style="outline", legend=False))
    changed = (shown != np.asarray(noise)).any(axis=(0, 2))
    assert changed[198:202].all() and not changed[:198].any() and not changed[202:].any()
    assert (shown[:, 199] == colours_of(["cat"])).all() and (shown[:, 200] == colours_of(["dog"])).all()
    one_sided = np.asarray(overlay(noise, halves(), ["background", "dog"], style="outline", legend=False))
    assert (one_sided[:, 199] == np.asarray(noise)[:, 199]).all() and (one_sided[:, 200] == shown[:, 200]).all()


def test_another_style_is_refused():
    with pytest.raises(ValueError, match="'fill' or 'outline'"):
        overlay(WHITE, halves(), ["cat", "dog"], style="lines")


@pytest.mark.parametrize("size", [(500, 375), (300, 900), (1600, 1200)])
@pytest.mark.parametrize("count", [3, 21, 171])
def test_a_legend_adds_at_most_a_third(size, count, written):
    label_map = (np.arange(size[0] * size[1]) % count * np.ones(1, int)).reshape(size[::-1])
    label_map[: size[1] // 2] = 0
    whole = overlay(Image.new("RGB", size), label_map, [f"label {i}" for i in range(count)])
    assert whole.width * whole.height <= size[0] * size[1] * 4 / 3
    listed = [text for text in written if text.startswith("label")]
    assert listed[0] == "label 0"  # the largest
    more = count - len(listed)
    assert (f"+ {more} more" in written) == bool(more)


def test_opacity_zero_is_the_picture_but_for_the_borders():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    shown = np.asarray(overlay(noise, np.zeros((300, 400), int), ["cat"], opacity=0, legend=False))
    assert np.array_equal(shown, np.asarray(noise))


def test_the_legend_lists_only_labels_that_occur_the_largest_first(written):
    label_map = halves(left=3, right=1)
    label_map[:, :220] = 3
    overlay(WHITE, label_map, ["never", "small", "nowhere", "large"])
    assert written == ["large", "55.0%", "small", "45.0%"]


def test_the_legend_tells_how_much_has_no_label(written):
    overlay(WHITE, halves(left=-1, right=0), ["cat"])
    assert written == ["cat", "50.0%", "(no label)", "50.0%"]


@pytest.mark.parametrize("size", [(400, 300), (300, 900), (1200, 60), (256, 256)])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_the_legend_never_covers_the_picture(size, count):
    label_map = np.arange(size[0] * size[1]).reshape(size[::-1]) * count // (size[0] * size[1])
    labels = [f"label number {i}" for i in range(count)]
    picture = Image.effect_noise(size, 50)
    bare, whole = overlay(picture, label_map, labels, legend=False), overlay(picture, label_map, labels)
    assert np.array_equal(np.asarray(whole)[: size[1], : size[0]], np.asarray(bare))
    assert whole.size > size
    outside = np.asarray(whole).copy()
    outside[: size[1], : size[0]] = 255
    codes = np.array([1 << 16, 1 << 8, 1])
    chips = np.isin(colours_of(labels) @ codes, outside @ codes)
    assert chips[0] and (chips.all() or whole.width * whole.height <= size[0] * size[1] * 4 / 3 or chips.sum() == 1)
    assert (outside[-2:] == 255).all() and (outside[:, -2:] == 255).all()  # nothing runs off the panel


@pytest.mark.parametrize("size, factor", [((1, 1), 256), ((16, 16), 16), ((64, 48), 4), ((255, 10), 2), ((256, 10), 1)])
def test_small_pictures_are_enlarged_by_a_whole_factor(size, factor):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    label_map = np.full(size[::-1], -1)
    shown = np.asarray(overlay(noise, label_map, [], opacity=0))[: size[1] * factor, : size[0] * factor]
    assert np.array_equal(shown, np.asarray(noise).repeat(factor, 0).repeat(factor, 1))
    assert heatmap(noise, np.zeros(size[::-1]), "cat").height > size[1] * factor


def test_long_names_end_in_an_ellipsis_inside_the_panel(written):
    whole = overlay(WHITE, halves(), ["a photo of " * 50, "x" * 3000])
    assert whole.width <= 800 and sum(text.endswith("…") for text in written) == 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_any_mode_are_taken(mode):
    picture = Image.new(mode, (300, 200))
    label_map = np.zeros((200, 300), np.uint8)
    assert overlay(picture, label_map, ["cat"]).mode == "RGB" == heatmap(picture, label_map, "cat").mode


def test_more_labels_than_a_byte_holds_keep_their_colours():
    label_map = np.repeat(np.arange(300), 4)[None].repeat(300, 0)
    shown = np.asarray(overlay(Image.new("RGB", (1200, 300)), label_map, [str(i) for i in range(300)], opacity=1))
    assert np.array_equal(shown[150, 1:1200:4], colours_of([str(i) for i in range(300)]))


@pytest.mark.parametrize(
    "picture, label_map, labels, opacity, error, words",
    [
        (WHITE, np.zeros((400, 300), int), ["cat"], 0.5, ValueError, "400 x 300.*300 x 400"),
        (WHITE, np.zeros((300, 400, 1), int), ["cat"], 0.5, ValueError, r"shape \(300, 400, 1\)"),
        (WHITE, np.zeros((0, 0), int), ["cat"], 0.5, ValueError, r"shape \(0, 0\)"),
        (WHITE, np.zeros((300, 400)), ["cat"], 0.5, TypeError, "float64.*astype"),
        (WHITE, halves(right=2), ["cat", "dog"], 0.5, ValueError, "from 0 to 2.*2 labels"),
        (WHITE, halves(left=-2), ["cat", "dog"], 0.5, ValueError, "from -2"),
        (WHITE, halves(), "cat", 0.5, TypeError, r"\['cat'\]"),
        (WHITE, halves(), ["cat", 3], 0.5, TypeError, "3 .int."),
        (WHITE, halves(), ["cat", "dog"], 1.5, ValueError, "opacity is 1.5"),
        (np.zeros((300, 400, 3)), halves(), ["cat", "dog"], 0.5, TypeError, "fromarray"),
    ],
)
def test_what_can_not_be_drawn_is_named(picture, label_map, labels, opacity, error, words):
    with pytest.raises(error, match=words):
        overlay(picture, label_map, labels, opacity=opacity)


# ---- heat map ------------------------------------------------------------------------------------------------------


def test_higher_scores_are_brighter(written):
    shown = heatmap(Image.new("RGB", (300, 200), "gray"), np.linspace(0, 1, 300)[None].repeat(200, 0), "remote control")
    brightness = np.asarray(shown.convert("L"))[100].astype(int)
    assert (np.diff(brightness) >= -1).all() and brightness[-1] - brightness[0] > 120
    assert shown.width == 300 and written == ["remote control", "score", "0", "1"]


def test_a_stretched_heat_map_says_its_range(written):
    scores = np.linspace(-3, 0.25, 60000).reshape(200, 300)
    shown = heatmap(Image.new("RGB", (300, 200), "gray"), scores, "cat", stretch=True, what="cosine")
    brightness = np.asarray(shown.convert("L"))[:200, 150].astype(int)
    assert brightness[-1] - brightness[0] > 120
    assert "".join(written[1:-2]) == "cosine, stretched to this picture's range" and written[-2:] == ["-3", "0.25"]
    assert heatmap(WHITE, np.ones((300, 400)), "flat", stretch=True).size[0] == 400


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_stretched_heat_map_needs_finite_numbers(bad):
    with pytest.raises(ValueError, match="finite"):
        heatmap(WHITE, np.where(halves(), bad, 0.0), "cat", stretch=True)


@pytest.mark.parametrize("scores", [np.full((300, 400), 1.2), np.full((300, 400), -0.1), np.full((300, 400), np.nan)])
def test_scores_outside_0_to_1_are_refused(scores):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        heatmap(WHITE, scores, "cat")


@pytest.mark.parametrize("grey_to", [-0.1, 1.0, 2.0])
def test_where_grey_ends_lies_below_1(grey_to):
    with pytest.raises(ValueError, match="grey_to is .* below 1"):
        heatmap(WHITE, np.zeros((300, 400)), "cat", grey_to=grey_to)


def test_scores_of_another_size_are_refused():
    with pytest.raises(ValueError, match="scores is 10 x 20"):
        heatmap(WHITE, np.zeros((10, 20)), "cat")


# ---- palette PNG ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, mode, unlabelled", [(1, "P", 255), (255, "P", 255), (256, "I;16", 65535),
                                                     (65535, "I;16", 65535)])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.int16, np.int64])
def test_a_palette_png_reads_back_to_the_same_indices(count, mode, unlabelled, dtype):
    label_map = np.random.default_rng(0).integers(-1, min(count, 32767), (31, 17)).astype(dtype)
    label_map[0, :2] = -1, min(count, 32767) - 1
    file = io.BytesIO()
    labels = [str(i) for i in range(count)]
    palette_png(label_map, labels).save(file, "PNG")
    image = Image.open(file)
    back = np.asarray(image).astype(int)
    assert palette_png(label_map, labels).mode == mode
    assert np.array_equal(np.where(back == unlabelled, -1, back), label_map)
    if mode == "P":
        assert image.mode == "P" and np.array_equal(np.asarray(image.convert("RGB"))[0, 1], colours_of(labels)[-1])


@pytest.mark.parametrize("label_map, count", [(halves(), 1), (halves(left=-2), 5), (halves(), 65536), (halves(), 0)])
def test_a_label_map_that_does_not_fit_is_refused(label_map, count):
    with pytest.raises(ValueError):
        palette_png(label_map, [str(i) for i in range(count)])


# ---- side by side --------------------------------------------------------------------------------------------------


def test_panels_are_set_row_by_row_in_equal_cells(written):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    panels = [(f"panel {i}", Image.new("RGB", (300, 200), colour)) for i, colour in enumerate(colours)]
    panels[2] = ("panel 2", panels[2][1].resize((600, 400)))
    sheet = np.asarray(side_by_side(panels, columns=2, legend=[Entry("sky", (255, 0, 255))], title="all"))
    boxes = [np.argwhere((sheet == colour).all(-1)) for colour in colours]
    assert [np.ptp(box, axis=0).tolist() for box in boxes] == [[199, 299]] * 3
    assert boxes[0][0][0] == boxes[1][0][0] and boxes[0][0][1] == boxes[2][0][1] and boxes[2][0][0] > boxes[0][-1][0]
    assert (sheet == (255, 0, 255)).all(-1).any()
    assert sorted(written) == ["all", "panel 0", "panel 1", "panel 2", "sky"]


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (5000, 4000)])
def test_panels_of_any_size_make_a_sheet_of_sensible_size(size):
    sheet = side_by_side([("a", Image.new("RGB", size)), ("b" * 100, Image.new("L", size))] * 2)
    assert max(sheet.size) <= 9000 and min(sheet.size) >= 20


def test_no_panel_and_no_column_are_refused():
    with pytest.raises(ValueError, match="no panels"):
        side_by_side([])
    with pytest.raises(ValueError, match="columns is 0"):
        side_by_side([("a", WHITE)], columns=0)


# ---- text ----------------------------------------------------------------------------------------------------------


def ink(text: str, size: int = 30) -> np.ndarray:
    image = Image.new("RGB", (1600, 60), "white")
    fonts.draw_text(image, (5, 42), text, size)
    return np.asarray(image.convert("L"))


@pytest.mark.parametrize("text", ["cat", "кошка", "γάτα", "قطة جميلة", "חתול", "ქართული", "½ – “x” ♥ 🐱"])
def test_the_shipped_font_covers_the_scripts_that_it_is_said_to(text):
    assert fonts._runs(text) == ((text, fontfiles.SHIPPED),) and (ink(text) < 128).any()


@pytest.mark.filterwarnings("ignore:no font on this machine")
@pytest.mark.parametrize(
    "text", ["猫と犬", "고양이", "बिल्ली", "แมว", "🦊 fox 👩🏽\u200d🚀", "cat 猫 קטן", MISSING, "\ud800", ""]
)
def test_every_text_is_drawn_by_fonts_that_have_its_characters(text):
    for part, face in fonts._runs(text):
        assert all(fonts._is_invisible(c) or fontfiles.has_character(face, c) for c in part)
    assert ink(text)[:, fonts.text_width(text, 30) + 8 :].min() == 255


def test_characters_that_no_font_has_are_escaped_and_said_once(forget_fonts, monkeypatch):
    monkeypatch.setattr(fonts, "machine_fonts", lambda: ())
    with pytest.warns(UserWarning, match="pip install manimgx-fonts-cjk.*SCLIP_FONTS") as warned:
        assert fonts.displayed("cat 猫\n 犬") == "cat \\u732b \\u72ac"
    assert len(warned) == 1
    assert np.array_equal(ink("猫"), ink("\\u732b"))


def test_a_font_of_the_users_is_used_for_what_the_shipped_one_lacks(forget_fonts, monkeypatch, tmp_path):
    mine = str(tmp_path / "sub" / "Mine.ttf")
    (tmp_path / "sub").mkdir()
    shutil.copy(fontfiles.SHIPPED, mine)
    monkeypatch.setenv("SCLIP_FONTS", str(tmp_path))
    has = fontfiles.has_character
    monkeypatch.setattr(fonts, "has_character", lambda face, c: has(face, c) and not (face != mine and c in "жук"))
    assert fontfiles.machine_fonts()[0] == mine
    assert fonts._runs("beetle жук") == (("beetle ", fontfiles.SHIPPED), ("жук", mine))


@pytest.mark.parametrize(
    "c, has", [("a", True), ("ж", True), ("ש", True), ("猫", False), ("ก", False), (MISSING, False)]
)
def test_what_the_shipped_font_has(c, has):
    assert fontfiles.has_character(fontfiles.SHIPPED, c) == has


def test_what_the_shipped_font_has_is_what_its_table_says():
    """The table as fontTools reads it, over all of the planes in use."""
    tools = pytest.importorskip("fontTools.ttLib")
    table = set(tools.TTFont(fontfiles.SHIPPED).getBestCmap())
    codes = [code for code in range(0x20, 0x20000, 7) if not 0xD800 <= code < 0xE000 and code not in BLANK]
    wrong = [hex(code) for code in codes if fontfiles.has_character(fontfiles.SHIPPED, chr(code)) != (code in table)]
    assert len(wrong) <= 2, wrong


def test_fonts_of_installed_packages_are_found(forget_fonts, monkeypatch, tmp_path):
    (tmp_path / "my_fonts").mkdir()
    shutil.copy(fontfiles.SHIPPED, tmp_path / "my_fonts/Mine.ttf")
    info = tmp_path / "my_fonts-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-fonts\nVersion: 1\n")
    (info / "RECORD").write_text("my_fonts/Mine.ttf,,\nmy_fonts-1.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert fontfiles.machine_fonts()[0] == str(tmp_path / "my_fonts/Mine.ttf")


def test_files_that_are_no_fonts_do_no_harm(forget_fonts, monkeypatch, tmp_path):
    for name, content in {"a.ttf": b"", "b.otf": b"no font at all", "c.ttc": b"ttcf\0\1\0\0\xff\xff\xff\xff"}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("SCLIP_FONTS", str(tmp_path))
    assert fonts.displayed("cat") == "cat"
    broken = [face for face in fontfiles.machine_fonts() if str(tmp_path) in face]
    assert not any(fontfiles.has_character(face, "x") for face in broken)


def test_text_without_shaping_runs_from_right_to_left_all_the_same(forget_fonts, monkeypatch):
    monkeypatch.setattr(fonts, "_shapes", lambda: False)
    drawn = []
    monkeypatch.setattr(fonts.ImageDraw.ImageDraw, "text", lambda self, xy, text, **_: drawn.append(text))
    fonts.draw_text(Image.new("RGB", (200, 50)), (0, 30), "חתול\u200f", 20)
    assert drawn == ["לותח"]


@pytest.mark.parametrize(
    "text", ["a photo of a long thing", "x" * 100, "кошка " * 30, "猫と犬と鳥", "x\u0301" * 40, " "]
)
@pytest.mark.parametrize("width", [20, 60, 200])
@pytest.mark.filterwarnings("ignore:no font on this machine")
def test_wrapped_lines_fit_and_say_when_something_is_missing(text, width):
    lines = fonts.wrap_text(text, 20, width, lines=2)
    assert len(lines) <= 2 and all(fonts.text_width(line, 20) <= max(width, 2 * 20) for line in lines)
    whole = "".join(fonts.displayed(text).split())
    assert lines[-1].endswith("…") or "".join("".join(lines).split()) == whole


def test_a_huge_label_is_cut():
    assert fonts.wrap_text("word " * 200_000, 20, 200)[-1].endswith("…")


def test_escapes_are_not_broken_in_the_middle(forget_fonts, monkeypatch):
    monkeypatch.setattr(fonts, "machine_fonts", lambda: ())
    monkeypatch.setattr(fonts, "_missing", ["said"])
    width = fonts.text_width("\\u732b\\u73", 20)
    assert fonts.wrap_text("猫猫猫", 20, width, lines=3) == ("\\u732b",) * 3
