"""Repositories `hf:OWNER/NAME`: fetched once from a server that answers as the Hub does."""

import hashlib
import http.server
import json
import threading

import pytest
import torch
from conftest import random_clip

from itaclip import InputError
from itaclip.clip_model import load_clip, model_folder, save_clip

hub = pytest.importorskip("huggingface_hub")
COMMIT = "a" * 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A repository in open_clip's layout, with weights in two formats."""
    folder = save_clip(
        random_clip(layers=1, width=64, text_layers=1), tmp_path_factory.mktemp("repository")
    )
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    return content | {"README.md": b"# read me", "pytorch_model.bin": b"never fetched"}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """The two answers of the Hub that are needed: a repository's list, and its files."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body, **headers):
            self.send_response(200)
            for key, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(key.replace("_", "-"), str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            server.requests.append((self.command, self.path))
            if self.path.startswith("/api/models/me/clip/tree/"):
                body = [
                    dict(type="file", path=name, size=len(body), oid=name, lfs=lfs(name, body))
                    for name, body in files.items()
                ]
                return self.answer(json.dumps(body).encode(), Content_Type="application/json")
            if self.path.startswith("/api/models/me/clip"):
                siblings = [
                    dict(rfilename=name, size=len(body), blobId=name, lfs=lfs(name, body))
                    for name, body in files.items()
                ]
                body = dict(id="me/clip", sha=COMMIT, siblings=siblings, private=False)
                body |= dict(tags=[], downloads=0, likes=0)
                return self.answer(json.dumps(body).encode(), Content_Type="application/json")
            name = self.path.rpartition("/")[2]
            if not self.path.startswith("/me/clip/resolve/") or name not in files:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            body = server.sent.get(name, files[name])
            etag = hashlib.sha256(files[name]).hexdigest()
            self.answer(body, ETag=f'"{etag}"', X_Repo_Commit=COMMIT, X_Linked_ETag=f'"{etag}"')

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    def lfs(name, body):
        if not name.endswith(".bin"):
            return None
        sha256 = hashlib.sha256(body).hexdigest()
        return dict(sha256=sha256, oid=sha256, size=len(body), pointerSize=1)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.sent = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for module in (hub.constants, hub.file_download.constants, hub.hf_api.constants):
        monkeypatch.setattr(module, "ENDPOINT", url)
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "cache"))
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub.HfApi, "__init__", with_endpoint(hub.HfApi.__init__, url))
    yield server
    server.shutdown()
    server.server_close()


def with_endpoint(init, url):
    def own(self, endpoint=None, **settings):
        init(self, endpoint=endpoint or url, **settings)

    return own


def test_a_repository_is_fetched_once_and_said(server, files, capsys, monkeypatch):
    model = load_clip("hf:me/clip")
    said = capsys.readouterr().err
    assert "me/clip" in said and "127.0.0.1" in said and "MB" in said
    assert model.facts.source == "hf:me/clip" and model.facts.vision_width == 64
    fetched = {path.rpartition("/")[2] for _, path in server.requests if "/resolve/" in path}
    assert fetched == {"open_clip_config.json", "open_clip_pytorch_model.bin"}
    count = len(server.requests)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)  # nothing is asked any more
    again = load_clip("hf:me/clip")
    assert len(server.requests) == count
    assert torch.equal(again.visual.proj, model.visual.proj)


def test_a_damaged_blob_is_named(server):
    folder = model_folder("hf:me/clip")
    path = (folder / "open_clip_pytorch_model.bin").resolve()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged \(its sha256 is not"):
        model_folder("hf:me/clip")


def test_a_download_that_differs_is_refused(server, files):
    name = "open_clip_pytorch_model.bin"
    server.sent[name] = files[name][:-1] + b"x"
    with pytest.raises(InputError, match="damaged"):
        model_folder("hf:me/clip")


@pytest.mark.parametrize(
    "name", ["hf:", "hf:clip", "hf:a/b/c", "hf:me/clip@", "hf:../..", "hf:a b/c"]
)
def test_names_that_are_none_are_refused(name):
    with pytest.raises(InputError, match=r"expected 'hf:OWNER/NAME'"):
        load_clip(name)


def test_offline_without_a_copy_is_one_sentence(server, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="could not be fetched") as caught:
        load_clip("hf:me/clip")
    assert "\n" not in str(caught.value)
