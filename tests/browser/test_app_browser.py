"""The web page in a real browser, without web access.

Needs the extra 'app', ``pip install playwright`` and a Chromium or Chrome of the system.
"""

import os
import re
import shutil
import subprocess
import sys
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

pytest.importorskip("gradio", reason="the extra 'app' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found ({', '.join(NAMES)})")
_TIMEOUT = 30_000  # milliseconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The page's address."""
    folder = tmp_path_factory.mktemp("server")
    process = subprocess.Popen(
        [sys.executable, "-m", "itaclip", "app", "--model", "storybook-tiny", "--port", "0"],
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    (url,) = re.findall(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    yield url
    process.terminate()
    assert process.wait(timeout=30) == 0
    assert list(folder.glob("itaclip-app-*")) == []  # no visitor's file stays


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # A sandbox cannot be made by root, as in containers.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(server, browser):
    """A fresh visitor's page; at the end, nothing was asked of any other server."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(_TIMEOUT)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(server)
    page.wait_for_selector("#examples img")
    yield page
    page.wait_for_timeout(500)  # late requests; the page's own connection never goes idle
    page.close()
    hosts = {urlsplit(url).netloc for url in asked if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {urlsplit(server).netloc}
    assert errors == []


def pick_example(page, number):
    page.locator("#examples button").nth(number).click()
    page.wait_for_selector("#view img")


def segment(page, classes=None):
    if classes is not None:
        page.fill("#classes textarea", classes)
    before = page.locator("#status").inner_text()
    page.click("#segment")
    page.wait_for_function(
        "before => { const text = document.querySelector('#status').innerText;"
        " return text.includes('labels') && text != before }",
        arg=before,
    )


def shown_image(page):
    """The pixels of the picture that the browser shows, (H, W, 3)."""
    url = page.locator("#view img").get_attribute("src")
    return np.asarray(Image.open(BytesIO(page.request.get(url).body())).convert("RGB"))


def test_from_an_example_to_the_files(page, tmp_path):
    pick_example(page, 0)
    assert "boat" in page.input_value("#classes textarea")
    segment(page, "sky; sea, ocean; wooden floor; tree")
    names = page.locator("#legend li span").all_inner_texts()
    shares = [float(t.split()[0]) for t in page.locator("#legend li b").all_inner_texts()]
    assert set(names) <= {"sky", "sea", "wooden floor", "tree"}
    assert len(names) >= 3
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.3)

    blended = shown_image(page)
    slider = page.locator("#opacity input[type=range]")
    slider.fill("0")
    page.wait_for_function(
        "before => document.querySelector('#view img').src != before",
        arg=page.locator("#view img").get_attribute("src"),
    )
    plain = shown_image(page)
    scene = np.asarray(Image.open(PROJECT / "docs" / "scene.png").convert("RGB"))
    zoom = plain.shape[0] // scene.shape[0]
    assert (plain[::zoom, ::zoom] == scene).all()
    assert abs(blended.astype(int) - plain).mean() > 10

    picture = page.locator("#view img")
    box = picture.bounding_box()
    scale = min(box["width"] / plain.shape[1], box["height"] / plain.shape[0], 1)
    left = (box["width"] - plain.shape[1] * scale) / 2
    top = (box["height"] - plain.shape[0] * scale) / 2
    row, column = 10, 200  # sky
    x, y = ((at + 0.5) * zoom * scale for at in (column, row))
    picture.click(position={"x": left + x, "y": top + y})
    page.wait_for_selector("#scores table")
    title = page.locator("#scores h4").inner_text()
    found = re.fullmatch(r"Row (\d+), column (\d+): sky", title)
    assert abs(int(found[1]) - row) <= 1
    assert abs(int(found[2]) - column) <= 1
    assert page.locator("#scores tr th").first.inner_text() == "sky"
    page.wait_for_selector("#attention img")

    for button, mode in (("#mask", "P"), ("#overlay", "RGB")):
        with page.expect_download() as download:
            page.click(button)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        picture = Image.open(path)
        assert (picture.mode, picture.size) == (mode, (230, 150))
        if mode == "P":
            assert np.asarray(picture)[row, column] == 0  # sky
        else:
            assert (np.asarray(picture) == scene).all()  # opacity 0


def test_an_upload_and_words_that_look_like_code(page, tmp_path):
    path = tmp_path / "lawn.jpg"
    Image.new("RGB", (300, 200), (60, 160, 60)).save(path)
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_selector("#view img")
    assert page.locator("#status").inner_text() == "300 × 200 pixels."
    word = "<img src=https://example.org/x.png> {{x}} ${1+1}"
    segment(page, word)
    assert page.locator("#legend li span").all_inner_texts() == [word]
    segment(page, "grass; sky")
    assert "kept" in page.locator("#status").inner_text()


def test_a_bad_file_and_bad_words(page, tmp_path):
    pick_example(page, 1)
    path = tmp_path / "broken.png"
    path.write_bytes(b"not an image")
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_selector("#notice [role=alert]")
    assert page.locator("#notice").inner_text().startswith("broken.png: ")
    assert page.locator("#view img").count() == 1
    page.fill("#classes textarea", "cat, dog")
    page.fill("#background input, #background textarea", "")
    page.click("#segment")
    page.wait_for_selector("#notice >> text=separate classes by")
    segment(page, "cat; dog")
    assert page.locator("#notice").inner_text() == ""


def test_a_press_without_an_image(page):
    page.fill("#classes textarea", "cat; dog")
    page.click("#segment")
    page.wait_for_selector("#notice >> text=no image yet")
