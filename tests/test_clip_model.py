"""Checkpoints of every kind, downloads, and what is refused."""

import hashlib
import http.server
import pickle
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import CLIP_CONFIG, random_clip

from itaclip import InputError
from itaclip.clip_model import OPENAI_MODELS, clip_module, fetch_openai, load_clip, sources
from itaclip.runtime import download

HEADS_OF_64 = CLIP_CONFIG | dict(vision_heads=1)


@pytest.fixture(scope="module")
def small():
    return random_clip(layers=2, width=64, text_layers=1)


@pytest.fixture(scope="module")
def state(small):
    return {key: value.clone() for key, value in small.state_dict().items()}


class Scripted(torch.nn.Module):
    """Holds CLIP's tensors in a TorchScript archive, with the extra entries of OpenAI's."""

    def __init__(self, clip):
        super().__init__()
        for name in ("visual", "transformer", "token_embedding", "ln_final"):
            self.add_module(name, getattr(clip, name))
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(clip, name))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(77))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images)


def save_as(kind, small, state, folder):
    path = folder / f"weights.{kind}"
    if kind == "pt":
        torch.save(state, path)
    elif kind == "nested.pt":
        torch.save({"state_dict": state, "meta": {"epoch": 1}}, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "npz":
        np.savez_compressed(path, **{k: v.half().numpy() for k, v in state.items()})
    elif kind == "script.pt":
        torch.jit.trace(Scripted(small).eval(), torch.zeros(1, 3, 64, 64)).save(str(path))
    return path


@pytest.mark.parametrize("kind", ["pt", "nested.pt", "safetensors", "npz", "script.pt"])
def test_every_kind_of_checkpoint(kind, small, state, tmp_path):
    model = load_clip(save_as(kind, small, state, tmp_path), HEADS_OF_64)
    assert isinstance(model, clip_module("model").CLIP)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        expected = value.half().float() if kind == "npz" else value
        assert loaded[key].dtype == torch.float32
        assert torch.equal(loaded[key], expected), key
    tokens = torch.randint(1, 100, (2, 77))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.isfinite(model.encode_text(tokens)).all()
        if kind != "npz":
            torch.testing.assert_close(model.encode_image(images), small.encode_image(images))
            torch.testing.assert_close(model.encode_text(tokens), small.encode_text(tokens))


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def bad_files(state, folder):
    def saved(name, content):
        path = folder / name
        torch.save(content, path)
        return path

    short = folder / "short.pt"
    short.write_bytes(saved("whole.pt", state).read_bytes()[:5000])
    text = folder / "text.pt"
    text.write_text("not a checkpoint")
    half = folder / "half.safetensors"
    safetensors.torch.save_file(state, half)
    half.write_bytes(half.read_bytes()[:3000])
    pickled = folder / "pickled.pt"
    pickled.write_bytes(pickle.dumps(Malicious()))
    less = {k: v for k, v in state.items() if k != "visual.proj"}
    return {
        "short": (short, "cannot be read"),
        "text": (text, "cannot be read"),
        "empty": (saved("empty.pt", {}), "visual.conv1.weight"),
        "list": (saved("list.pt", [1, 2]), "dict of tensors"),
        "half": (half, "cannot be read"),
        "pickled": (pickled, "cannot be read"),
        "code": (saved("code.pt", {"a": Malicious()}), "cannot be read"),
        "missing": (saved("missing.pt", less), "lacks 'visual.proj'"),
        "unknown": (saved("unknown.pt", {**state, "head.weight": torch.ones(1)}), "'head.weight'"),
        "shape": (saved("shape.pt", {**state, "visual.ln_post.bias": torch.ones(3)}), "(3,)"),
        "nan": (
            saved("nan.pt", {**state, "ln_final.bias": torch.full((64,), torch.nan)}),
            "finite",
        ),
        "resnet": (saved("rn.pt", {"visual.layer1.0.conv1.weight": torch.ones(1)}), "ResNet"),
    }


@pytest.mark.parametrize(
    "case",
    ["short", "text", "empty", "list", "half", "pickled", "code", "missing", "unknown", "shape",
     "nan", "resnet"],
)  # fmt: skip
def test_bad_checkpoints_end_in_one_sentence(case, state, tmp_path):
    path, words = bad_files(state, tmp_path)[case]
    with pytest.raises(InputError) as caught:
        load_clip(path, HEADS_OF_64)
    assert words in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- downloads ----------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 12_000


@pytest.fixture
def server(monkeypatch):
    """A web server with one file under two roofs; it can cut connections and refuse one of them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            if self.path.startswith("/gone/"):
                return self.send_error(404)
            start = 0
            if "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            if start:
                end = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
                self.send_header("Content-Range", end)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            stop = len(CONTENT) // 2 if server.cut else len(CONTENT)
            self.wfile.write(CONTENT[start:stop])
            server.cut = False

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.cut = [], False
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    sha = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(sources.OPENAI_MODELS, "ViT-test", (sha, "test.pt"))
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_is_announced_verified_and_kept(server, tmp_path, capsys):
    server.cut = True  # and goes on where it broke off
    path = fetch_openai("ViT-test", tmp_path, server.url)
    assert path.read_bytes() == CONTENT
    assert fetch_openai("ViT-test", tmp_path, server.url) == path
    assert len(server.requests) == 2
    assert "127.0.0.1" in capsys.readouterr().err


def test_the_second_host_is_asked_where_the_first_fails(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_HOSTS", (f"{server.url}/gone", f"{server.url}/there"))
    assert fetch_openai("ViT-test", tmp_path).read_bytes() == CONTENT
    assert [path.split("/")[1] for path in server.requests] == ["gone", "there"]


def test_a_mirror_replaces_both_hosts(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ITACLIP_MIRROR", f"{server.url}/mine/")
    assert fetch_openai("ViT-test", tmp_path).read_bytes() == CONTENT
    assert server.requests == ["/mine/test.pt"]


def test_a_wrong_checksum_is_refused_and_removed(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.OPENAI_MODELS, "ViT-test", ("0" * 64, "test.pt"))
    with pytest.raises(InputError, match="sha256"):
        fetch_openai("ViT-test", tmp_path, server.url)
    assert not list(tmp_path.glob("*.pt*t"))


def test_a_file_of_the_users_stays(server, tmp_path):
    """It is never gone before its replacement is verified, and not even then."""
    own = tmp_path / "test.pt"
    own.write_bytes(b"my own weights")
    with pytest.raises(InputError, match=r"put the file of ViT-test at .*test\.pt"):
        fetch_openai("ViT-test", tmp_path, f"{server.url}/gone")
    assert own.read_bytes() == b"my own weights"
    assert fetch_openai("ViT-test", tmp_path, server.url).read_bytes() == CONTENT
    kept = [path for path in tmp_path.iterdir() if path.read_bytes() == b"my own weights"]
    assert len(kept) == 1


def test_no_connection_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    with pytest.raises(InputError, match=r"put the file of ViT-B/16 at .*test.*ITACLIP_MIRROR"):
        fetch_openai("ViT-B/16", tmp_path / "test", "http://127.0.0.1:9")


def test_the_table_agrees_with_openai_clip():
    import importlib.util

    folder = importlib.util.find_spec("clip").submodule_search_locations[0]
    with open(f"{folder}/clip.py", encoding="utf-8") as file:
        source = file.read()
    for name, (sha256, file_name) in OPENAI_MODELS.items():
        assert f'"{name}": "{sources._HOSTS[0]}/{sha256}/{file_name}"' in source


@pytest.mark.weights
def test_the_real_weights_when_they_are_there():
    path = sources.cache_folder() / OPENAI_MODELS["ViT-B/16"][1]
    if not path.is_file():
        pytest.skip("needs OpenAI's ViT-B/16 in CLIP's cache folder")
    model = load_clip("ViT-B/16")
    assert len(model.visual.transformer.resblocks) == 12


def test_the_list_of_models_names_what_configs_use(capsys):
    import re

    from conftest import PROJECT

    from itaclip.clip_model.catalogue import CATALOGUE
    from itaclip.commands import main

    main(["models"])
    shown = capsys.readouterr().out
    names = [entry.name for entry in CATALOGUE]
    assert set(OPENAI_MODELS) <= set(names) and all(name in shown for name in names)
    for path in sorted((PROJECT / "configs" / "backbones").glob("*.py")):
        name = re.search(r'clip_model="([^"]+)"', path.read_text())[1]
        assert name in names or name.startswith("weights/"), path
