"""The page in a real browser: headless Chromium, from the machine's packages."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

import sclip_plugin as sp

pytest.importorskip("gradio", reason="the page is the extra 'app', which CI installs")
playwright = pytest.importorskip("playwright.sync_api", reason="CI installs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium")
SECONDS = 60_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    (folder / "scenes").mkdir()
    for seed in range(12):
        sp.draw_scene(seed).picture.save(folder / "scenes" / f"{seed}.png")
    sp.Index.build(sp.Segmenter.from_pretrained("demo", device="cpu"), folder / "scenes", folder / "index")
    log = (folder / "log").open("wb")
    command = [sys.executable, "-m", "sclip_plugin", "app", "-m", "demo", "--device", "cpu", "--port", str(port)]
    command += ["--index", str(folder / "index")]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, open(log.name).read()
            try:
                urllib.request.urlopen(url, timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = opened(context, address)
    yield page
    context.close()
    assert not page.refused, "all that the page asks for is answered"


def opened(context, address):
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    page.asked, page.refused = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("response", lambda answer: page.refused.append(answer.url) if answer.status >= 400 else None)
    page.goto(address)
    page.wait_for_selector("#draw")
    return page


def draw(page):
    page.click("#draw")
    page.wait_for_selector("#first img")


def types(page, *words):
    for word in words:
        page.fill("#words input", word)
        page.press("#words input", "Enter")


def says(page, where, text):
    page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.innerText.includes(text)", arg=[where, text]
    )
    return page.inner_text(where)


def source(page, where="#first img"):
    return page.get_attribute(where, "src")


def changes(page, before):
    page.wait_for_function(
        "before => document.querySelector('#first img') && document.querySelector('#first img').src != before",
        arg=before,
    )


def test_a_scene_is_drawn_clicked_renamed_hidden_and_downloaded(page):
    scene = sp.draw_scene(0, scale=2)
    result = sp.Segmenter.from_pretrained("demo", device="cpu")(scene.picture, list(scene.labels))
    largest, share = max(result.areas().items(), key=lambda entry: entry[1])
    draw(page)
    assert f"{largest} {100 * share:.1f}%" in says(page, "#legend", largest)
    row, column = next(zip(*(result.label_map == result.labels.index(largest)).nonzero(), strict=True))
    box = page.locator("#first img").bounding_box()
    scale = box["width"] / scene.picture.width
    page.locator("#first img").click(position={"x": (column + 3) * scale, "y": (row + 3) * scale})
    says(page, "#place", f"{largest}, ")
    page.fill("#name input, #name textarea", "wombat")
    page.click("#rename")
    says(page, "#legend", "wombat")
    page.click("#undo")
    page.wait_for_function("!document.querySelector('#legend').innerText.includes('wombat')")
    page.click("#download button")
    page.click("#make")
    with page.expect_download() as download:
        page.click("#file a[download]")
    assert download.value.suggested_filename == "scene-png.zip"
    assert not [url for url in page.asked if not url.startswith((page.url, "data:", "blob:"))], "nothing from elsewhere"


def test_what_is_here_gives_words(page, tmp_path):
    scene = sp.draw_scene(2001)
    scene.picture.save(tmp_path / "mine.png")
    largest = sp.Segmenter.from_pretrained("demo", device="cpu").names(scene.picture)[0].word
    page.set_input_files("#picture input[type=file]", tmp_path / "mine.png")
    says(page, "#status", "Give words")
    page.click("#names")
    says(page, "#legend", largest)
    assert largest in page.inner_text("#words")


def test_words_change_what_is_seen_without_another_look(page, tmp_path):
    picture = tmp_path / "mine.png"
    scene = sp.draw_scene(3, scale=2)
    scene.picture.save(picture)
    page.set_input_files("#picture input[type=file]", picture)
    says(page, "#status", "Give words")
    types(page, f"zebra, {scene.labels[0]}")
    says(page, "#status", "2 labels")
    says(page, "#legend", "zebra not there")
    before = source(page)
    types(page, f"{scene.labels[-1]}|clouds")
    says(page, "#status", "3 labels")
    changes(page, before)
    page.click("#same button")
    says(page, "#same", "sclip segment mine.png --model demo")
    before = source(page)
    page.click("text=outlines only")
    changes(page, before)


def test_a_second_picture_and_a_third_are_taken(page, tmp_path):
    """Gradio makes a component anew where an answer leaves it as it was."""
    types(page, "cat")
    legends = set()
    for seed in (3, 4, 5):
        sp.draw_scene(seed).picture.save(tmp_path / f"{seed}.png")
        page.set_input_files("#picture input[type=file]", tmp_path / f"{seed}.png")
        says(page, "#status", "1 labels")
        legends.add(source(page))
        page.click("#picture button[aria-label*=lear], #picture button[aria-label*=emove]")
        says(page, "#status", "Give a picture")
    assert len(legends) == 3


def photograph(path, size):
    sp.draw_scene(1).picture.resize(size).save(path, quality=90)
    return path


def words_in(page):
    """The words that stand in the box."""
    return [word.inner_text().strip() for word in page.locator("#words .token").all()]


def test_words_typed_while_an_answer_is_under_way_stay(page, tmp_path):
    typed = ["cat", "grass", "sky", "house", "tree", "boat"]
    page.set_input_files("#picture input[type=file]", photograph(tmp_path / "large.jpg", (4000, 3000)))
    for word in typed:
        types(page, word)
        page.wait_for_timeout(150)
    says(page, "#status", "6 labels")
    assert words_in(page) == typed
    types(page, "hill")
    page.fill("#words input", "half a wo")
    says(page, "#status", "7 labels")
    page.wait_for_timeout(500)
    assert page.input_value("#words input") == "half a wo"


def test_a_scene_takes_no_words_away(page):
    draw(page)
    says(page, "#status", "labels")
    first = words_in(page)
    page.click("#draw")
    page.wait_for_function(
        "before => document.querySelector('#words').innerText != before", arg=page.inner_text("#words")
    )
    assert words_in(page) != first, "the first scene's words, which nobody typed, give way"
    says(page, "#status", "labels")
    types(page, "wombat")
    says(page, "#legend", "%")
    mine = words_in(page)
    before = source(page)
    page.click("#draw")
    changes(page, before)
    says(page, "#status", f"{len(mine)} labels")
    assert mine[-1] == "wombat" and words_in(page) == mine


def test_one_more_word_keeps_what_was_renamed(page):
    draw(page)
    says(page, "#status", "labels")
    page.locator("#first img").click(position={"x": 40, "y": 40})
    says(page, "#place", "is selected")
    page.fill("#name input, #name textarea", "meadow")
    page.click("#rename")
    says(page, "#legend", "meadow")
    assert "is selected" not in page.inner_text("#place"), "the selection goes with the region"
    count = len(words_in(page))
    types(page, "kite")
    says(page, "#status", f"{count + 1} labels")
    assert "meadow" in page.inner_text("#legend")


def test_a_refused_picture_clears_the_old_one_and_the_reason_stays(page, tmp_path):
    draw(page)
    says(page, "#legend", "%")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    page.set_input_files("#picture input[type=file]", bad)
    says(page, "#status", "the picture cannot be read as a picture")
    page.wait_for_selector("#first img", state="detached")
    page.wait_for_function("!document.querySelector('#legend').innerText.includes('%')")
    count = len(words_in(page))
    types(page, "wombat")
    page.wait_for_timeout(1500)
    assert len(words_in(page)) == count + 1
    assert "the picture cannot be read as a picture" in page.inner_text("#status")
    page.set_input_files("#picture input[type=file]", photograph(tmp_path / "good.jpg", (300, 200)))
    says(page, "#status", f"{count + 1} labels")


def test_mistakes_are_said_and_go_with_what_they_speak_of(page):
    page.click("#hide")
    says(page, "#status", "no region is selected")
    draw(page)
    answered = says(page, "#status", "labels")
    page.click("#hide")
    says(page, "#status", "no region is selected")
    page.locator("#first img").click(position={"x": 40, "y": 40})
    says(page, "#status", answered.strip())
    types(page, "x" * 200)
    says(page, "#status", "of 100 characters each")


def test_what_is_painted_or_clicked_is_learnt_here_and_on_other_pictures(page, tmp_path):
    sp.draw_scene(5, scale=2).picture.save(tmp_path / "other.png")
    draw(page)
    says(page, "#status", "labels")
    page.click("#teach button")
    page.set_input_files("#more input[type=file]", tmp_path / "other.png")
    page.wait_for_selector("#others img")
    other = source(page, "#others img")
    page.click("#paint")
    page.wait_for_selector("#canvas canvas")
    page.wait_for_timeout(2000)
    page.locator("#canvas canvas").first.scroll_into_view_if_needed()
    box = page.locator("#canvas canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 5, steps=5)
    page.mouse.up()
    page.click("#add-painted")
    says(page, "#status", "names")
    page.fill("#word input, #word textarea", "zorbl")
    page.click("#add-painted")
    says(page, "#examples", "zorbl 1 region")
    page.wait_for_selector("#canvas", state="hidden")
    page.click("#add-clicked")
    says(page, "#status", "no region is selected")
    page.locator("#first img").click(position={"x": 40, "y": 40})
    says(page, "#place", "is selected")
    page.click("#add-clicked")
    says(page, "#examples", "zorbl 2 regions")
    before = source(page)
    page.click("#learn")
    says(page, "#status", "learnt from 2 regions")
    says(page, "#legend", "zorbl")
    changes(page, before)
    page.wait_for_function("before => document.querySelector('#others img').src != before", arg=other)
    page.click("#save-learnt")
    with page.expect_download() as download:
        page.click("#learnt a[download]")
    assert download.value.suggested_filename == "learnt.safetensors"
    page.click("#forget")
    says(page, "#examples", "No examples")
    page.wait_for_function("!document.querySelector('#legend').innerText.includes('zorbl')")


def test_a_collection_is_searched(page):
    page.click("button[role=tab]:has-text('Search')")
    says(page, "#found-status", "12 pictures")
    page.click("#find")
    says(page, "#found-status", "holds no names")
    page.fill("label:has-text('Words') >> visible=true >> input, textarea >> visible=true", sp.draw_scene(4).labels[0])
    page.click("#find")
    page.wait_for_selector("#found img")
    assert "4.png" in page.inner_text("#found")


def test_two_visitors_have_their_own(browser, address):
    contexts = [browser.new_context() for _ in range(2)]
    first, second = (opened(context, address) for context in contexts)
    draw(first)
    draw(second)
    legend = says(first, "#legend", "%")
    second.click("#draw")
    second.wait_for_function("before => document.querySelector('#legend').innerText != before", arg=legend)
    assert first.inner_text("#legend") == legend
    for context in contexts:
        context.close()


def test_a_phone_has_room_for_it(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = opened(context, address)
    draw(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#first img").bounding_box()["width"] > 300
    context.close()
