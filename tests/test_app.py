"""The web page without a browser: its logic, and its server asked by Gradio's own client.

``tests/browser`` drives the page in a browser.
"""

import argparse
import re
import socket
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import itaclip
from itaclip.app import fragments
from itaclip.app.examples import drawn_examples
from itaclip.app.workbench import (
    LONG_SIDE,
    WHOLE,
    Visit,
    Workbench,
    heat_map,
    open_image,
    result_of,
    words_of,
)
from itaclip.commands.app import choose_model, free_port, run
from itaclip.errors import InputError
from itaclip.predict.load import DEFAULT_MODEL
from itaclip.recipes import RECIPES
from itaclip.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def segmenter():
    return itaclip.load("storybook-tiny", precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def bench(segmenter):
    return Workbench(segmenter)


@pytest.fixture(scope="module")
def examples():
    return drawn_examples()


@pytest.fixture
def visit(examples):
    return Visit(examples[0].name, examples[0].image)


WORDS = "sky; sea, ocean; tree"


# ---- what is shown ------------------------------------------------------------------------------


def test_the_legend_lists_what_was_found():
    html = fragments.legend(
        ("sky", "<b>sea</b>", "tree"),
        ((1, 2, 3), (40, 50, 60), (7, 8, 9)),
        {"<b>sea</b>": 0.6234, "sky": 0.0004},
    )
    names = re.findall(r"<span>(.*?)</span>", html)
    assert names == ["&lt;b&gt;sea&lt;/b&gt;", "sky"]
    assert re.findall(r"<b>(.*?)</b>", html) == ["62.3 %", "< 0.1 %"]
    assert html.index("rgb(40, 50, 60)") < html.index("rgb(1, 2, 3)")
    assert "Not found: tree." in html


def test_bars_start_with_the_highest_score():
    classes = [f"class {i}" for i in range(15)]
    scores = np.linspace(0, 0.5, 15)
    html = fragments.score_bars((3, 7), 4, classes, [(0, 0, i) for i in range(15)], scores)
    assert "Row 3, column 7: class 4" in html
    assert re.findall(r"<span>(.*?)</span>", html) == classes[:2:-1]
    assert "width:50.0%;background:rgb(0, 0, 14)" in html
    assert "and 3 more" in html


def test_messages_are_escaped():
    assert "<img" not in fragments.notice("<img src=x>")
    assert "<img" not in fragments.heading("t", "<img src=x>")


def test_a_heat_map_keeps_the_image_in_grey():
    image = np.full((40, 60, 3), (30, 60, 90), dtype=np.uint8)
    heat = np.zeros((40, 60), dtype=np.float32)
    heat[:, 40:] = 1
    picture = heat_map(image, heat, (20, 10))
    assert picture.shape == image.shape
    assert picture[0, 0].max() < picture[0, 59].min()
    assert tuple(picture[20, 10]) == (0, 255, 255)


# ---- images -------------------------------------------------------------------------------------


def test_a_file_that_is_no_picture_is_named_as_the_visitor_knows_it(tmp_path):
    path = tmp_path / "a3f9"
    path.write_text("hello")
    with pytest.raises(InputError, match=r"^notes\.png: .*picture"):
        open_image(str(path), "notes.png")


def test_a_large_picture_is_shrunk_and_says_so(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (2 * LONG_SIDE, LONG_SIDE // 2)).save(path)
    visit = open_image(str(path), "large.scan.png")
    assert visit.name == "large.scan"
    assert visit.image.shape == (LONG_SIDE // 4, LONG_SIDE, 3)
    assert f"shrunk from {2 * LONG_SIDE} × {LONG_SIDE // 2}" in visit.describe()


def test_a_small_picture_is_left_as_it_is(tmp_path):
    path = tmp_path / "small.png"
    Image.new("RGB", (31, 17)).save(path)
    visit = open_image(str(path), "small.png")
    assert visit.image.shape == (17, 31, 3)
    assert "shrunk" not in visit.describe()


@pytest.mark.parametrize("shape", [(17, 31), (150, 230), (700, 900)])
def test_a_point_of_the_picture_that_is_shown_is_its_pixel(shape):
    rng = np.random.default_rng(0)
    visit = Visit("noise", rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    shown = visit.shown(visit.image)
    assert max(shown.shape) >= 600
    points = rng.integers(0, (shown.shape[1], shown.shape[0]), (50, 2))
    for x, y in points:
        assert (shown[y, x] == visit.image[visit.pixel_at(x, y)]).all()
    assert visit.pixel_at(shown.shape[1], shown.shape[0]) == (shape[0] - 1, shape[1] - 1)


# ---- segmenting ---------------------------------------------------------------------------------


def test_segmenting_is_that_of_the_api(bench, segmenter, visit):
    result = bench.segment(visit, WORDS, "", bench.defaults).result
    expected = segmenter.segment(visit.image, WORDS)
    assert result.classes == ("sky", "sea", "tree")
    assert (result.labels == expected.labels).all()
    np.testing.assert_array_equal(result.scores, expected.scores)


def test_background_words_make_a_class(bench, segmenter, visit):
    settings = replace(bench.defaults, prob_thd=0.9)
    result = bench.segment(visit, "tree; boat", "sky, sea, wooden floor", settings).result
    expected = segmenter.segment(
        visit.image, "tree; boat", background="sky, sea, wooden floor", prob_thd=0.9
    )
    assert result.classes == ("background", "tree", "boat")
    assert (result.labels == expected.labels).all()


def test_features_are_kept_for_other_words(bench, visit):
    first = bench.segment(visit, WORDS, "", bench.defaults)
    (encoded,) = first.encodings.values()
    second = bench.segment(first, "cloud; boat", "", replace(bench.defaults, logit_scale=20))
    assert [*second.encodings.values()] == [encoded]
    assert second.seconds[0] is None
    assert "kept" in second.describe()
    assert "kept" not in first.describe()
    assert first.result.classes == ("sky", "sea", "tree")
    assert visit.result is None


def test_features_of_few_recipes_are_kept(bench, visit):
    used = [*bench.recipes[:4], bench.recipes[1]]
    for recipe in used:
        visit = bench.segment(visit, WORDS, "", replace(bench.defaults, recipe=recipe))
    assert [key[0] for key in visit.encodings] == [used[2], used[3], used[1]]
    assert visit.seconds[0] is None


def test_a_recipe_that_reads_the_words_keeps_no_features(bench, visit):
    recipe = next(name for name in bench.recipes if RECIPES[name].needs_text)
    settings = replace(bench.defaults, recipe=recipe)
    for _ in range(2):
        visit = bench.segment(visit, WORDS, "", settings)
    assert "depend on the words" in visit.describe()
    assert "kept" not in visit.describe()


def test_only_recipes_that_fit_the_model_are_offered(bench, segmenter):
    assert bench.recipes[0] == "itaclip"
    assert len(bench.recipes) == len(set(bench.recipes)) > 10
    for recipe in bench.recipes:
        segmenter.with_recipe(recipe)
    for recipe in set(RECIPES) - set(bench.recipes):
        with pytest.raises(InputError):
            segmenter.with_recipe(recipe)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        (dict(recipe="naclip"), dict(recipe="naclip")),
        (dict(stride="28"), dict(stride=28)),
        (dict(stride=WHOLE), dict(crop_size=None)),
        (dict(views=True), dict(image_engineering_weight=0.75)),
        (dict(refined=False), dict(pamr=None)),
        (dict(logit_scale=10), dict(logit_scale=10)),
    ],
)
def test_every_setting_is_that_of_load(bench, segmenter, visit, changes, options):
    visit = replace(visit, image=visit.image[:, :140].copy())
    before = segmenter.segment(visit.image, WORDS)
    changed = bench.segment(visit, WORDS, "", replace(bench.defaults, **changes)).result
    loaded = itaclip.load("storybook-tiny", precision="fp32", device="cpu", **options)
    expected = loaded.segment(visit.image, WORDS)
    np.testing.assert_array_equal(changed.scores, expected.scores)
    np.testing.assert_array_equal(changed.labels, expected.labels)
    assert (
        abs(changed.scores - before.scores).max() > 1e-3 or (changed.labels != before.labels).any()
    )
    np.testing.assert_array_equal(segmenter.segment(visit.image, WORDS).scores, before.scores)


def test_regions_are_a_switch(bench, segmenter, visit):
    pytest.importorskip("skimage")
    visit = replace(visit, image=visit.image[:, :140].copy())
    assert not bench.defaults.regions
    switched = bench.segment(visit, WORDS, "", replace(bench.defaults, regions=True)).result
    expected = segmenter.variant(regions=dict(source="slic")).segment(visit.image, WORDS)
    np.testing.assert_array_equal(switched.labels, expected.labels)
    assert (switched.labels != segmenter.segment(visit.image, WORDS).labels).any()


def test_the_page_starts_with_the_settings_of_the_config():
    segmenter = itaclip.load(
        config="configs/cfg_storybook.py", recipe=dict(recipe="itaclip", middle_weight=0.25)
    )
    bench = Workbench(segmenter)
    assert bench.defaults.stride == "56"
    assert bench.defaults.refined
    assert not bench.defaults.views
    assert bench.defaults.recipe == bench.recipes[0] == "as loaded"
    classes, background = bench.words
    assert classes.startswith("sky; sea, ocean; grass, lawn")
    assert background == ""
    image = drawn_examples()[0].image
    result = bench.segment(Visit("scene", image), WORDS, "", bench.defaults).result
    np.testing.assert_array_equal(result.scores, segmenter.segment(image, WORDS).scores)


def test_words_of_a_vocabulary():
    vocabulary = Vocabulary.from_lists(
        [["wall", "floor"], "cat", ["sofa", "couch"]], background=True
    )
    assert words_of(vocabulary) == ("cat; sofa, couch", "wall, floor")


@pytest.mark.parametrize(
    ("classes", "message"),
    [("", "no classes yet"), (" \n", "no classes yet"), ("sky; sky", "sky"), ("a,,b; c", "empty"),
     ("cat, dog", "';'"), ("word " * 100 + "; b", "tokens")],
)  # fmt: skip
def test_bad_words_end_in_a_sentence(bench, visit, classes, message):
    with pytest.raises(InputError, match=message):
        bench.segment(visit, classes, "", bench.defaults)


def test_order_of_steps(bench, visit):
    with pytest.raises(InputError, match="no image yet"):
        bench.segment(None, WORDS, "", bench.defaults)
    with pytest.raises(InputError, match="no image yet"):
        result_of(None)
    with pytest.raises(InputError, match="press Segment"):
        bench.attention(visit, (0, 0))


def test_attention_is_shown_at_the_pixel(bench, visit):
    done = bench.segment(visit, WORDS, "", bench.defaults)
    one, other = (bench.attention(done, pixel) for pixel in ((20, 20), (140, 220)))
    assert one.shape == visit.image.shape
    assert tuple(one[20, 20]) == (0, 255, 255)
    assert abs(one.astype(int) - other).mean() > 1


def test_visitors_at_once_get_their_own_results(bench, examples):
    expected = {
        e.name: bench.segment(Visit(e.name, e.image), e.classes, "", bench.defaults).result.labels
        for e in examples
    }
    found, start = {}, threading.Barrier(len(examples))

    def press(example):
        start.wait()
        visit = Visit(example.name, example.image)
        found[example.name] = bench.segment(visit, example.classes, "", bench.defaults).result

    threads = [threading.Thread(target=press, args=(example,)) for example in examples]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for example in examples:
        assert (found[example.name].labels == expected[example.name]).all()


def test_examples_have_words_that_fit(bench, examples):
    assert len({example.name for example in examples}) == len(examples) >= 3
    for example in examples:
        visit = Visit(example.name, example.image)
        areas = bench.segment(
            visit, example.classes, example.background, bench.defaults
        ).result.areas()
        assert len(areas) >= 3


# ---- command ------------------------------------------------------------------------------------


def test_no_model_is_downloaded_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    name, remark = choose_model(None, None)
    assert name == "storybook-tiny"
    assert "--model ViT-B/16" in remark
    weights = tmp_path / ".cache" / "clip" / "ViT-B-16.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert choose_model(None, None) == (DEFAULT_MODEL, "")
    assert choose_model("ViT-L/14", None) == ("ViT-L/14", "")
    assert choose_model(None, "config.py") == (None, "")


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install .*\[app\]"):
        run(argparse.Namespace())


def test_an_address_that_cannot_be_used():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}.*--port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0
    assert free_port("127.0.0.1", None) is None
    with pytest.raises(InputError, match="--port"):
        free_port("127.0.0.1", 123456)


# ---- server -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(bench, examples, tmp_path_factory):
    """(url, addresses that the server's process connected to)."""
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
    patch.setenv("no_proxy", "127.0.0.1,localhost")
    addresses, connect = [], socket.socket.connect

    def recording(self, address):
        addresses.append(address)
        return connect(self, address)

    patch.setattr(socket.socket, "connect", recording)
    from itaclip.app.page import Page, launch_options

    page = Page(bench, examples, "storybook-tiny")
    _, url, _ = page.blocks.launch(
        server_port=free_port("127.0.0.1", 0),
        prevent_thread_lock=True,
        **launch_options(page, "127.0.0.1"),
    )
    yield url, addresses
    page.blocks.close()
    patch.undo()


def visitor(server):
    from gradio_client import Client

    return Client(server[0], verbose=False)


def press(client, classes, background=""):
    """What the page shows after "Segment": (view, status, legend, mask's file, notice)."""
    shown = client.predict(classes=classes, background=background, api_name="/segment")
    view, status, legend, _, _, mask, _, notice = shown
    return view, status, legend, mask.get("value"), notice


def test_a_visit(server, bench, examples, tmp_path):
    client = visitor(server)
    *_, classes, background = client.predict(1, api_name="/on_example")
    assert (classes, background) == (examples[1].classes, examples[1].background)
    _, _, legend, mask, notice = press(client, classes, background)
    example = examples[1]
    start = Visit(example.name, example.image)
    expected = bench.segment(start, classes, background, bench.defaults).result
    assert (np.asarray(Image.open(mask)) == expected.labels).all()
    assert re.findall(r"<span>(.*?)</span>", legend) == list(expected.areas())
    assert notice == ""
    _, status, _, _, _ = press(client, "cat; fish")
    assert "kept" in status
    for percent, same in ((0, True), (100, False)):
        _, overlay, _ = client.predict(percent, api_name="/on_opacity")
        picture = np.asarray(Image.open(overlay["value"]))
        assert (picture == example.image).all() == same


def test_bad_input_ends_in_a_sentence_and_all_else_stays(server, tmp_path):
    from gradio_client import handle_file

    client = visitor(server)
    client.predict(0, api_name="/on_example")
    path = tmp_path / "broken.png"
    path.write_bytes(b"not an image")
    *_, notice, _ = client.predict(handle_file(str(path)), api_name="/on_upload")
    assert "broken.png" in notice
    assert "alert" in notice
    assert "cat, dog" in press(client, "cat, dog")[-1]
    assert "found" in press(client, "sky; sea")[2]


def test_an_uploaded_file_is_segmented(server, tmp_path):
    from gradio_client import handle_file

    client = visitor(server)
    path = tmp_path / "My photo.png"
    Image.new("RGB", (90, 60), "green").save(path)
    *_, notice, _ = client.predict(handle_file(str(path)), api_name="/on_upload")
    assert notice == ""
    _, status, _, mask, _ = press(client, "grass; sky")
    assert status.startswith('<div class="note">90 × 60 pixels;')
    assert Image.open(mask).size == (90, 60)
    assert mask.endswith("My photo_mask.png")


def test_visitors_do_not_see_each_other(server):
    one, other = visitor(server), visitor(server)
    one.predict(0, api_name="/on_example")
    assert "no image yet" in press(other, "sky; sea")[-1]
    other.predict(2, api_name="/on_example")
    press(one, "sky; sea")
    assert "kept" not in press(other, "grass; cat")[1]
    assert "kept" in press(one, "tree; sea")[1]


def test_nothing_comes_from_elsewhere(server):
    import httpx

    url, addresses = server
    client = visitor(server)
    client.predict(0, api_name="/on_example")
    press(client, "sky; sea")
    assert addresses
    assert {address[0] for address in addresses} <= {"127.0.0.1", "localhost", "::1"}
    html = httpx.get(url).text
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', html)
    assert [address for address in loaded if not address.startswith(url)] == []
    assert "fonts.googleapis" not in html
    config = httpx.get(f"{url}config").json()
    assert config["analytics_enabled"] is False
    theme = httpx.get(f"{url}theme.css").text
    assert "@import" not in theme
    assert not re.search(r"url\([\"']?(https?:)?//", theme)
