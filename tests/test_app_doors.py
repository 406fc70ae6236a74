"""The page's doors: many visitors, long work beside short, foreign hosts, requests of any form."""

import json
import threading
import time

import numpy as np
import pytest
from PIL import Image
from test_app import bench, examples, press, segmenter, server, visitor  # noqa: F401  (fixtures)

from itaclip.app.turns import GoneError, Turns
from itaclip.app.visitors import Visitors
from itaclip.app.workbench import Visit
from itaclip.errors import InputError
from itaclip.predict.segmentation import Segmentation
from itaclip.runtime.batches import run_in_batches

httpx = pytest.importorskip("httpx")
API = "gradio_api"
CLIENT = httpx.Client(verify=False, timeout=30, trust_env=False)


def picture(value=0, size=20):
    return np.full((size, size, 3), value, np.uint8)


# ---- visitors -----------------------------------------------------------------------------------


def test_everyone_keeps_what_they_have_and_a_full_house_says_so():
    visitors = Visitors(most=50)
    for number in range(50):
        visitors.keep(f"s{number}", Visit(str(number), picture(number)))
    for number in range(50):
        assert visitors.visit(f"s{number}").image[0, 0, 0] == number
    with pytest.raises(InputError, match="The page is full: 50 visitors are here already"):
        visitors.keep("s50", Visit("late", picture()))
    visitors.keep("s7", Visit("another image", picture()))  # who is there has his place
    visitors.leave("s3")
    visitors.keep("s50", Visit("late", picture()))
    assert visitors.visit("s3") is None and len(visitors) == 50


def test_who_is_away_makes_room_and_who_is_connected_does_not():
    visitors = Visitors(most=2, idle=0)
    visitors.keep("away", Visit("a", picture()))
    visitors.keep("here", Visit("b", picture()))
    with visitors.connected("here"):
        visitors.keep("new", Visit("c", picture()))
    assert visitors.visit("away") is None and visitors.visit("here").name == "b"


def test_scores_make_room_the_longest_idle_first_and_images_stay():
    visitors = Visitors(budget=3 * 20 * 20 * 4 * 4)
    for number in range(5):
        scores = np.zeros((20, 20, 4), np.float32)
        result = Segmentation(picture(), np.zeros((20, 20), np.int32), scores, (), ())
        visitors.keep(str(number), Visit(str(number), picture(), result=result))
    kept = [visitors.visit(str(number)).result.scores is not None for number in range(5)]
    assert kept == [False, False, True, True, True]
    assert visitors.visit("0").result.labels.shape == (20, 20)


def test_a_result_never_takes_the_place_of_a_newer_image():
    visitors, first = Visitors(), Visit("first", picture(1))
    visitors.keep("s", first)
    visitors.keep("s", Visit("second", picture(2)))
    assert not visitors.keep("s", Visit("done", first.image), instead_of=first)
    assert visitors.visit("s").name == "second"


def test_who_listens():
    visitors, start = Visitors(), time.monotonic()
    assert visitors.listening("s", start)  # not connected yet
    assert not visitors.listening("s", start - 60)
    with visitors.connected("s"):
        assert visitors.listening("s", start - 60)
    assert not visitors.listening("s", start)  # closed the page since


# ---- turns --------------------------------------------------------------------------------------


def work(batches, log, name, gate=None):
    """Work in batches, as the model's."""

    def batch(items):
        log.append(name)
        if gate is not None:
            gate.wait(5)
        return items

    class Item:
        device = type("device", (), {"type": "cpu"})

    list(run_in_batches(batch, [Item()] * batches, 1, 1, 1))


def test_short_work_waits_for_a_batch_and_not_for_long_work():
    turns, log, gate = Turns(), [], threading.Event()

    def long():
        with turns.turn(100):
            work(20, log, "long", gate)

    def short():
        with turns.turn(0.1):
            work(2, log, "short")

    first = threading.Thread(target=long)
    first.start()
    while not log:
        time.sleep(0.001)
    second = threading.Thread(target=short)
    second.start()
    while not turns._waiting:
        time.sleep(0.001)
    gate.set()
    first.join(5), second.join(5)
    assert log == ["long", "short", "short", *["long"] * 19]


def test_long_work_s_turn_comes_too(monkeypatch):
    turns, log, now = Turns(), [], [0.0]
    monkeypatch.setattr("itaclip.app.turns.time.monotonic", lambda: now[0])
    with turns.turn(1):

        def early():
            with turns.turn(30):
                log.append("long")

        waiting = [threading.Thread(target=early, daemon=True)]
        waiting[0].start()
        while not turns._waiting:
            time.sleep(0.001)
        now[0] = 40.0

        def late():
            with turns.turn(0.1):
                log.append("short")

        waiting.append(threading.Thread(target=late, daemon=True))
        waiting[1].start()
        while len(turns._waiting) < 2:
            time.sleep(0.001)
    for thread in waiting:
        thread.join(5)
    assert log == ["long", "short"]  # it was due before the short work came


def test_work_ends_when_nobody_listens():
    turns, log, listening = Turns(), [], [True]

    def call(items):
        log.append(1)
        listening[0] = len(log) < 3
        return items

    device = type("device", (), {"type": "cpu"})
    with pytest.raises(GoneError), turns.turn(1, lambda: listening[0]):
        list(run_in_batches(call, [1] * 9, 1, 1, 1, device))
    assert len(log) == 3
    with turns.turn(1):
        pass  # the turn was given back


def test_words_have_a_limit_and_long_lists_let_others_in(bench, examples):  # noqa: F811
    visit = Visit("scene", examples[0].image)
    with pytest.raises(InputError, match="at most 200 names in 5000 letters"):
        bench.segment(visit, "; ".join(f"word {i}" for i in range(201)), "", bench.defaults)
    with pytest.raises(InputError, match="at most 200 names in 5000 letters"):
        bench.segment(visit, "; ".join("word" * 99 for _ in range(60)), "", bench.defaults)
    asked = []

    def listening():
        asked.append(1)
        return len(asked) < 4

    words = "; ".join(f"thing {i}" for i in range(100))
    with pytest.raises(GoneError):
        bench.segment(visit, words, "", bench.defaults, listening)
    assert bench.segment(visit, "sky; sea", "", bench.defaults).result is not None


# ---- who may ask --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:7860"}, 200),
        ({"host": "[::1]:7860"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:80"}, 421),
        ({"host": "evil.example:7860@127.0.0.1"}, 200),  # an address's user, which is no host
        ({"host": "[::1"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "https://localhost"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["config", f"{API}/info"])
def test_only_the_page_s_own_hosts_and_scripts_are_answered(path, headers, status, server):  # noqa: F811
    if headers.get("sec-fetch-site") == "cross-site" and path == "config":
        status = 200  # a link to the page from elsewhere
    answer = CLIENT.get(server[0] + path, headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["detail"].endswith((".", "adds a name."))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{API}/proxy=http://127.0.0.1:9/x"), ("GET", f"{API}/proxy=https://example.org"),
        ("POST", f"{API}/run/segment"), ("POST", f"{API}/api/segment"),
        ("POST", f"{API}/call/segment"), ("POST", f"{API}/component_server"),
        ("GET", "monitoring/summary"), ("GET", f"{API}/vibe-code"), ("POST", f"{API}/vibe-edit"),
        ("GET", f"{API}/deep_link"), ("POST", f"{API}/process_recording"), ("GET", "login_check"),
        ("GET", f"{API}/stream/a/b/c/playlist.m3u8"), ("PUT", "config"), ("DELETE", "config"),
        ("GET", f"{API}/openapi.json"), ("GET", f"{API}/custom_component/a/b/c/d"),
    ],
)  # fmt: skip
def test_what_the_page_does_not_use_is_closed(method, path, server):  # noqa: F811
    answer = CLIENT.request(method, server[0] + path)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("The page has no")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "http://127.0.0.1:9/a.png"])
def test_no_file_but_those_of_the_page_is_served(path, server):  # noqa: F811
    answer = CLIENT.get(f"{server[0]}{API}/file={path}", follow_redirects=False)
    assert answer.status_code in (403, 404)


# ---- requests of any form -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def functions(server):  # noqa: F811
    """Number of a function by its name."""
    found = CLIENT.get(f"{server[0]}config").json()["dependencies"]
    return {one["api_name"]: one["id"] for one in found}


def ask(server, function, data, session="doors", **more):  # noqa: F811
    """What becomes of a request: the gate's sentence, or the last message of the queue."""
    body = {"fn_index": function, "data": data, "session_hash": session, **more}
    answer = CLIENT.post(f"{server[0]}{API}/queue/join", json=body)
    if answer.status_code != 200:
        return answer.json()["detail"]
    url = f"{server[0]}{API}/queue/data?session_hash={session}"
    with CLIENT.stream("GET", url) as stream:
        for line in stream.iter_lines():
            message = json.loads(line[6:]) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return message["output"]
    return None


GOOD = ["sky; sea", "", 60, "Classes", "itaclip", "56", False, True, 40, 0, 0, False]
WRONG = [
    (index, value)
    for index, values in enumerate(
        [
            (None, "", "a, b"), (None,), (None, "x", -3, 1e9, []), ("Labels", 0, None),
            ("nosuch", None, 3, {}), ("57", None, [1], 112), (None, "yes", 3), (None, "no", []),
            ("many", None, 0, -1, 1e99), ("x", 2, -1, None), (7, "y", [], None),
            ("yes", None),
        ]
    )
    for value in values
]  # fmt: skip


@pytest.mark.parametrize(("index", "value"), WRONG)
def test_a_wrong_setting_ends_in_a_sentence(index, value, server, functions, capfd):  # noqa: F811
    session = f"wrong{index}"
    ask(server, functions["on_example"], [0], session)
    data = [*GOOD[:index], value, *GOOD[index + 1 :]]
    said = ask(server, functions["segment"], data, session)
    assert "Traceback" not in capfd.readouterr().err
    if isinstance(said, dict):
        notice = said.get("error") or said["data"][-1]
        assert notice and ("alert" in str(notice) or "error" in said), said
    else:
        assert said.endswith(".")


@pytest.mark.parametrize(
    "event", [None, {}, {"index": None}, {"index": [1]}, {"index": ["a", "b"]}, {"index": [-5, 3]},
              {"index": [1.5, 2]}, {"index": {}}, {"index": [True, False]}, "text", [3]],
)  # fmt: skip
def test_a_wrong_click_ends_in_a_sentence(event, server, functions, capfd):  # noqa: F811
    ask(server, functions["on_example"], [0], "click")
    ask(server, functions["segment"], GOOD, "click")
    said = ask(server, functions["on_click"], [], "click", event_data=event)
    assert "Traceback" not in capfd.readouterr().err
    assert "expected" in str(said) or "outside" in str(said)


FILES = [
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}},
    {"path": None, "url": "http://203.0.113.7/a.png", "meta": {"_type": "gradio.FileData"}},
    {"url": "https://example.org/a.png"},
    {"path": "../../../etc/passwd"},
    {"path": "\0"},
    {"path": "x" * 9999},
    {"path": ["a"]},
    {"meta": {}},
    [[{"a": {"url": "https://example.org"}}]],
    "https://example.org/a.png",
    "/etc/passwd",
    None,
    7,
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file)[:40])
def test_no_file_is_read_or_fetched_but_uploaded_ones(file, server, functions, monkeypatch, capfd):  # noqa: F811
    import socket

    looked_up = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: looked_up.append(a[0]))
    known = len(server[1])
    body = {"fn_index": functions["on_upload"], "data": [file], "session_hash": "files"}
    host, port = server[0].removeprefix("http://").rstrip("/").split(":")
    with socket.socket() as connection:
        connection.connect((host, int(port)))
        text = json.dumps(body)
        head = f"POST /{API}/queue/join HTTP/1.1\r\nHost: {host}\r\n"
        connection.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
        connection.settimeout(10)
        status = int(connection.recv(4096).split()[1])
    if status == 200:
        monkeypatch.undo()
        said = ask(server, functions["on_upload"], [file], "files2")
        assert said.get("error") or "alert" in str(said["data"]), said
    assert looked_up == []
    assert {address[0] for address in server[1][known:]} <= {"127.0.0.1", "localhost", "::1"}
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"7", b"null", b"\xff\xfe", b"[" * 100_000, b"{}",
        b'{"fn_index": 0}', b'{"fn_index": "0", "data": []}', b'{"fn_index": 99, "data": []}',
        b'{"fn_index": -1, "data": []}', b'{"fn_index": true, "data": []}',
        b'{"fn_index": 0, "data": {}}', b'{"fn_index": 0, "data": []}',
        b'{"fn_index": 0, "data": [], "session_hash": 7}',
        b'{"fn_index": 0, "data": [], "session_hash": "' + b"s" * 99 + b'"}',
        b'{"fn_index": 0, "data": [], "session_hash": "s", "event_data": 7}',
        b'{"data": "' + b"x" * (1 << 20) + b'"}',
    ],
    ids=lambda body: str(body[:40]),
)  # fmt: skip
def test_what_is_no_request_ends_in_a_sentence(body, server):  # noqa: F811
    answer = CLIENT.post(f"{server[0]}{API}/queue/join", content=body)
    assert 400 <= answer.status_code < 500
    detail = answer.json()["detail"]
    assert isinstance(detail, str) and detail.endswith(".")


def test_fifty_visitors_at_once(server, functions):  # noqa: F811
    """All upload at once, then each finds their own image."""
    wrong = []

    def visit(number):
        try:
            session = f"v{number}"
            ask(server, functions["on_example"], [number % 4], session)
            start.wait(60)
            said = ask(server, functions["on_opacity"], [50, "Classes"], session)
            if said.get("error"):
                wrong.append(said)
        except Exception as error:
            wrong.append(error)

    start = threading.Barrier(50)
    threads = [threading.Thread(target=visit, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    for number in (0, 17, 49):
        said = ask(server, functions["segment"], GOOD, f"v{number}")
        assert "found" in str(said["data"]), said


def test_the_uncertainty_is_shown(server, bench, examples):  # noqa: F811
    client = visitor(server)
    client.predict(0, api_name="/on_example")
    press(client, "sky; sea")
    _, overlay, notice = client.predict(100, "Uncertainty", api_name="/on_opacity")
    assert notice == ""
    picture = np.asarray(Image.open(overlay["value"])).astype(int)
    visit = Visit("scene", examples[0].image)
    uncertainty = bench.segment(visit, "sky; sea", "", bench.defaults).result.uncertainty
    bright = picture.sum(-1)
    assert bright[uncertainty > 0.9].mean() > 2 * bright[uncertainty < 0.1].mean()


def test_work_ends_at_once_when_a_visitor_closes_the_page(server, functions, bench):  # noqa: F811
    ask(server, functions["on_example"], [0], "leaver")
    data = ["; ".join(f"unheard {i}" for i in range(200)), *GOOD[1:]]
    body = {"fn_index": functions["segment"], "data": data, "session_hash": "leaver"}
    CLIENT.post(f"{server[0]}{API}/queue/join", json=body)
    with (
        httpx.Client(verify=False, trust_env=False) as leaving,
        leaving.stream("GET", f"{server[0]}{API}/queue/data?session_hash=leaver"),
    ):
        wait_until(lambda: bench._turns._working is not None)
    start = time.monotonic()
    wait_until(lambda: bench._turns._working is None)
    assert time.monotonic() - start < 4  # all words take many times as long


def wait_until(true):
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
