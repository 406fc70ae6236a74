"""The generator of auxiliary texts, against a real local server and a tiny random local model."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itaclip.__main__ import main as itaclip_main
from itaclip.aux_text.answers import UnusableAnswer, check_answer, clean_answer, prompt_tokens
from itaclip.aux_text.journal import Journal
from itaclip.aux_text.prompts import KINDS
from itaclip.errors import InputError
from itaclip.vocabulary import load_class_names, load_vocabulary, parse_auxiliary_texts

PROJECT = Path(__file__).resolve().parents[1]


def main(arguments):
    return itaclip_main(["texts", *arguments])


def installed(package):
    return importlib.util.find_spec(package) is not None


needs_openai = pytest.mark.skipif(
    not installed("openai"), reason="the package 'openai' is not installed (itaclip[aux-text])"
)
needs_transformers = pytest.mark.skipif(
    not installed("transformers"),
    reason="the package 'transformers' is not installed (itaclip[aux-text])",
)

CLASSES = "sky, wall\ncat, kitten\nmouse\ntable\n"
DEFINITIONS = {
    "cat": "small furry animal with pointed ears and whiskers",
    "mouse": "tiny grey rodent with a long thin tail",
    "table": "flat wooden top standing on four legs",
}


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "cls.txt"
    path.write_text(CLASSES)
    return path


# ---- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("small furry animal", "small furry animal"),
        ("  A small  furry animal. \n", "small furry animal"),
        ('"The small furry animal."', "small furry animal"),
        ("Here is a definition:\n\nsmall furry animal", "small furry animal"),
        ("**Definition:** small furry animal", "small furry animal"),
        ("- small furry animal", "small furry animal"),
        ("1. small furry animal", "small furry animal"),
        ("Cat: small furry animal", "small furry animal"),
        ("A cat is a small furry animal.", "small furry animal"),
        ("**cat**: small furry animal", "small furry animal"),
        ("cat's small furry cousin", "cat's small furry cousin"),
        ("another animal", "another animal"),
        ("Synonym: “feline”", "feline"),
        ("", ""),
        ("  \n ", ""),
    ],
)
def test_what_surrounds_an_answer_is_taken_off(answer, text):
    assert clean_answer(answer, "cat") == text


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("", "definitions", "empty"),
        ("?!", "definitions", "no word"),
        ("animal", "definitions", "one word"),
        ("word " * 49 + "word", "definitions", "50 words"),
        ("small >= furry animal", "definitions", ">="),
        ("small\x07 furry animal", "definitions", "control"),
        ("I'm sorry, but I cannot do that", "definitions", "refusal"),
        ("pneumonoultramicroscopicsilicovolcanoconiosis " * 6, "definitions", "tokens"),
        ("feline, tomcat", "synonyms", "list"),
        ("feline or tomcat", "synonyms", "list"),
        ("feline (animal)", "synonyms", "list"),
        ("a very small furry animal", "synonyms", "5 words"),
        ("Cat", "synonyms", "name itself"),
        ("Mouse", "synonyms", "another class"),
    ],
)
def test_unusable_answers(text, kind, reason):
    with pytest.raises(UnusableAnswer, match=reason):
        check_answer(text.strip(), kind, "cat", {"mouse", "table"})


def test_usable_answers():
    check_answer(" ".join(["furry"] * 49), "definitions", "cat")
    check_answer("domestic feline", "synonyms", "cat", {"mouse"})
    assert prompt_tokens("cat") < prompt_tokens("small furry cat") < 77


def test_several_lines_are_unusable():
    with pytest.raises(UnusableAnswer, match="2 lines"):
        clean_answer("small furry animal\nbig furry animal", "cat")


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=80)
    | st.text(st.sampled_from("cat is:*\"'.->= \n\t\u2028\u200b\x00AThe1)"), max_size=40),
    st.sampled_from(KINDS),
)
def test_any_answer_is_refused_or_survives_the_file(answer, kind):
    try:
        text = clean_answer(answer, "cat")
        check_answer(text, kind, "cat")
    except UnusableAnswer:
        return
    assert parse_auxiliary_texts([f"cat >= {text}"], "f") == {"cat": (text, 1)}
    assert clean_answer(text, "cat") == text


# ---- journal -----------------------------------------------------------------------------------


def test_journal_survives_a_cut_off_line(tmp_path):
    out, options = tmp_path / "out.txt", {"seed": 0}
    journal = Journal(out, options)
    journal.add("cat", "näive >")
    journal.add("dog", "text\u2028two")
    journal.close()
    whole = journal.path.read_bytes()
    for cut in range(len(whole)):  # killed after any byte
        journal.path.write_bytes(whole[:cut])
        again = Journal(out, options)
        assert set(again.answers) <= {"cat", "dog"}
        assert again.answers.get("cat", "näive >") == "näive >"
        again.add("cow", "text")
        again.close()
        third = Journal(out, options)
        assert third.answers == {**again.answers}
        third.close()


def test_journal_refuses_other_settings_and_damage(tmp_path):
    out = tmp_path / "out.txt"
    journal = Journal(out, {"seed": 0, "kind": "synonyms"})
    journal.add("cat", "feline")
    journal.close()
    with pytest.raises(InputError, match=r"seed was 0, now 1.*delete the file"):
        Journal(out, {"seed": 1, "kind": "synonyms"})
    raw = journal.path.read_bytes()
    journal.path.write_bytes(raw.replace(b'{"name"', b'{"nam') + b'{"name": "a", "text": "b"}\n')
    with pytest.raises(InputError, match=r"partial:2.*damaged"):
        Journal(out, {"seed": 0, "kind": "synonyms"})


# ---- a server that speaks the chat completions protocol ----------------------------------------


class Server:
    """Answers each request by ``reply(body, number) -> str | (status, headers, bytes) | None``.

    A string is the model's answer; None drops the connection.
    """

    def __init__(self, reply):
        self.requests, self.paths, self.keys, self.lock = [], [], [], threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append(body)
                    server.paths.append(self.path)
                    server.keys.append(self.headers.get("Authorization"))
                    number = len(server.requests)
                answer = reply(body, number)
                if answer is None:
                    self.connection.shutdown(2)
                    self.close_connection = True
                    return
                if isinstance(answer, str):
                    answer = (200, {"Content-Type": "application/json"}, completion(answer))
                status, headers, payload = answer
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(payload))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def completion(text):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


def asked_name(body):
    """The class that a request asks for: the first quoted word of its first message."""
    return body["messages"][0]["content"].split('"')[1]


def good(body, number):
    return DEFINITIONS[asked_name(body)]


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(reply):
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def arguments(names, out, server, *more, kind="definitions"):
    return [
        *("--name-path", str(names), "--kind", kind, "--out", str(out), "--background"),
        *("--backend", "openai", "--model", "m", "--base-url", server.url, *more),
    ]


@needs_openai
def test_definitions_from_a_server(names, tmp_path, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server, out = serve(good), tmp_path / "out.txt"
    assert main(arguments(names, out, server, "--seed", "3")) == 0
    expected = "".join(f"{name} >= {text}\n" for name, text in DEFINITIONS.items())
    assert out.read_text() == expected
    assert load_vocabulary(names, out, background=True).auxiliary_texts[0] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cls.txt", "out.txt"]
    assert set(server.paths) == {"/v1/chat/completions"}
    assert set(server.keys) == {"Bearer secret"}
    first = server.requests[0]
    assert first["model"] == "m"
    assert first["temperature"] == 0
    assert len({request["seed"] for request in server.requests}) == 3
    prompt = first["messages"][0]["content"]
    assert '"cat" is also called: kitten' in prompt
    assert "mouse, table" in prompt
    assert "sky" not in prompt
    # a finished file is left alone
    assert main(arguments(names, out, server, "--seed", "3")) == 0
    assert len(server.requests) == 3


@needs_openai
def test_synonyms_do_not_name_other_classes(names, tmp_path, serve):
    answers = {"cat": ["Cat", "mouse", "feline"], "mouse": ["rodent"], "table": ["desk."]}
    server = serve(lambda body, number: answers[asked_name(body)].pop(0))
    out = tmp_path / "out.txt"
    assert main(arguments(names, out, server, kind="synonyms")) == 0
    assert out.read_text() == "cat >= feline\nmouse >= rodent\ntable >= desk\n"
    last = server.requests[2]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user"]
    assert last[1]["content"] == "mouse"
    assert "another class" in last[2]["content"]


@needs_openai
def test_rate_limits_server_errors_and_dropped_connections_are_waited_out(names, tmp_path, serve):
    def reply(body, number):
        if number == 1:
            return 429, {"Retry-After-Ms": "20"}, b'{"error": {"message": "slow down"}}'
        if number == 3:
            return None
        if number == 5:
            return 503, {"Retry-After-Ms": "20"}, b"busy"
        return good(body, number)

    server, out = serve(reply), tmp_path / "out.txt"
    assert main(arguments(names, out, server)) == 0
    assert len(server.requests) == 6
    assert len(out.read_text().splitlines()) == 3


@needs_openai
def test_bad_answers_are_asked_again_with_the_reason(names, tmp_path, serve):
    bad = ["", "small\nfurry\nanimal", "x >= y z", "I cannot help with that.", "furry " * 60]
    server = serve(
        lambda body, n: bad[n - 1] if n <= len(bad) else "Sure:\n**Cat:** a small furry animal."
    )
    names.write_text("cat\n")
    out = tmp_path / "out.txt"
    args = arguments(names, out, server)
    args.remove("--background")
    assert main(args) == 0
    assert out.read_text() == "cat >= small furry animal\n"
    reasons = [request["messages"][-1]["content"] for request in server.requests[1:]]
    for reason, part in zip(
        reasons, ("empty", "3 lines", ">=", "refusal", "60 words"), strict=True
    ):
        assert part in reason


@needs_openai
def test_a_class_without_usable_answer_fails_clearly_and_keeps_the_rest(
    names, tmp_path, serve, capsys
):
    stubborn = ["mouse"]
    server = serve(
        lambda body, n: "animal" if asked_name(body) in stubborn else DEFINITIONS[asked_name(body)]
    )
    out = tmp_path / "out.txt"
    assert main(arguments(names, out, server, "--retries", "2")) == 1
    message = capsys.readouterr().err
    assert "1 of 3 classes" in message
    assert "mouse: it is one word" in message
    assert "same command continues" in message
    assert not out.exists()
    assert len(server.requests) == 5
    stubborn.clear()
    assert main(arguments(names, out, server, "--retries", "2")) == 0
    assert len(server.requests) == 6  # only the class that was missing
    assert [line.split(" >=")[0] for line in out.read_text().splitlines()] == list(DEFINITIONS)


@needs_openai
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {}, b'{"error": {"message": "bad key"}}'), ["401", "bad key", "OPENAI_API_KEY"]),
        ((404, {}, b'{"error": {"message": "no model m"}}'), ["404", "no model m", "--model"]),
        ((429, {"Retry-After-Ms": "5"}, b"{}"), ["429", "--retries"]),
        ((200, {"Content-Type": "text/html"}, b"<html>"), ["chat completion", "--base-url"]),
        ((200, {"Content-Type": "application/json"}, b"{}"), ["chat completion"]),
        ((200, {"Content-Type": "application/json"}, b"{"), ["chat completion"]),
        ((200, {"Content-Type": "application/json"}, b"[1]"), ["chat completion"]),
        (None, ["cannot be reached"]),
    ],
)
def test_server_failures_end_in_one_clear_error(names, tmp_path, serve, capsys, answer, words):
    server = serve(lambda body, number: answer)
    assert main(arguments(names, tmp_path / "out.txt", server, "--retries", "1")) == 1
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert "Traceback" not in message
    # nothing was answered, so nothing is left to stand in the way of other settings
    assert [path.name for path in tmp_path.iterdir()] == ["cls.txt"]
    assert "Nothing was written" in message


@needs_openai
def test_a_silent_server_runs_into_the_timeout(names, tmp_path, serve, capsys):
    def reply(body, number):
        time.sleep(3)
        return "too late"

    more = ("--retries", "0", "--timeout", "0.3")
    assert main(arguments(names, tmp_path / "out.txt", serve(reply), *more)) == 1
    assert "within 0.3 s" in capsys.readouterr().err


@needs_openai
def test_no_server(names, tmp_path, serve, capsys):
    server = serve(good)
    server.close()
    assert main(arguments(names, tmp_path / "out.txt", server, "--retries", "0")) == 1
    assert "cannot be reached" in capsys.readouterr().err


@needs_openai
def test_a_killed_run_continues(names, tmp_path, serve):
    killed = threading.Event()

    def reply(body, number):
        if number == 3 and not killed.is_set():
            killed.wait(60)  # the third request hangs until the process is dead
            return None
        return good(body, number)

    server, out = serve(reply), tmp_path / "out.txt"
    partial = tmp_path / "out.txt.partial"
    command = [sys.executable, "-m", "itaclip", "texts", *arguments(names, out, server)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(server.requests) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.set()
    assert len(partial.read_text().splitlines()) == 3  # settings and two classes
    assert not out.exists()
    with open(partial, "a") as file:
        file.write('{"name": "table", "te')  # as if killed while writing
    before = len(server.requests)
    assert main(arguments(names, out, server)) == 0
    assert [asked_name(body) for body in server.requests[before:]] == ["table"]
    assert out.read_text() == "".join(f"{n} >= {text}\n" for n, text in DEFINITIONS.items())
    assert not partial.exists()


@needs_openai
def test_a_run_with_other_settings_does_not_continue(names, tmp_path, serve, capsys):
    server = serve(lambda body, n: "animal" if asked_name(body) == "table" else good(body, n))
    out = tmp_path / "out.txt"
    assert main(arguments(names, out, server, "--retries", "0")) == 1
    assert main(arguments(names, out, server, "--seed", "1")) == 2
    assert "seed was 0, now 1" in capsys.readouterr().err
    names.write_text(CLASSES.replace("kitten", "tomcat"))
    assert main(arguments(names, out, server)) == 2
    assert "classes was" in capsys.readouterr().err


@needs_openai
def test_an_existing_file_is_not_overwritten(names, tmp_path, serve, capsys):
    server, out = serve(good), tmp_path / "out.txt"
    out.write_text("cat >= mine\n")
    assert main(arguments(names, out, server)) == 2
    assert "does not fit the classes" in capsys.readouterr().err
    out.write_text("cat >= feline\nmouse >= rodent\ntable >= desk\n")
    assert main(arguments(names, out, server)) == 2
    assert "no file of definitions" in capsys.readouterr().err
    assert out.read_text().startswith("cat >= feline")
    assert server.requests == []


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--name-path": "nowhere.txt"}, "--name-path"),
        ({"--out": "no/such/folder/out.txt"}, "--out"),
        ({"--base-url": "localhost:8000"}, "--base-url"),
        ({"--model": ""}, "--model"),
    ],
)
@needs_openai
def test_bad_input_is_one_sentence(names, tmp_path, capsys, change, words):
    options = {
        "--name-path": str(names),
        "--kind": "synonyms",
        "--out": str(tmp_path / "out.txt"),
        "--backend": "openai",
        "--model": "m",
        "--base-url": "http://127.0.0.1:9/v1",
        **change,
    }
    assert main([word for pair in options.items() for word in pair]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


@needs_openai
def test_a_key_is_needed_for_the_default_endpoint(names, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    options = ["--name-path", str(names), "--kind", "synonyms", "--out", str(tmp_path / "o.txt")]
    assert main([*options, "--backend", "openai", "--model", "m"]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ["--kind", "poems"],
        ["--temperature", "-1"],
        ["--temperature", "warm"],
        ["--retries", "-1"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--backend", "magic"],
    ],
)
def test_options_out_of_range(names, tmp_path, capsys, more):
    base = ["--name-path", str(names), "--kind", "synonyms", "--out", str(tmp_path / "o.txt")]
    with pytest.raises(SystemExit) as exit_info:
        main([*base, "--backend", "openai", *more])
    assert exit_info.value.code == 2
    assert more[0] in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["openai", "transformers"])
def test_a_missing_package_is_named_with_its_command(names, tmp_path, capsys, monkeypatch, backend):
    monkeypatch.setitem(sys.modules, backend, None)  # what an import of a missing package meets
    base = ["--name-path", str(names), "--kind", "synonyms", "--out", str(tmp_path / "o.txt")]
    assert main([*base, "--backend", backend, "--model", "m"]) == 2
    message = capsys.readouterr().err
    assert f"'{backend}'" in message
    assert "pip install 'itaclip[aux-text]'" in message


def test_classes_are_needed_beside_the_background(tmp_path, capsys):
    path = tmp_path / "cls.txt"
    path.write_text("sky, wall\n")
    options = ["--name-path", str(path), "--kind", "synonyms", "--out", str(tmp_path / "o.txt")]
    assert main([*options, "--background", "--backend", "openai", "--model", "m"]) == 2
    assert "beside the background" in capsys.readouterr().err


# ---- a local model -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A randomly initialised Llama of a few thousand weights whose tokens are whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["[UNK]", "[EOS]", *(f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]", pad_token="[EOS]"
    )
    fast.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            eos_token_id=1,
            pad_token_id=1,
            bos_token_id=None,
            initializer_range=0.2,
        )
    )
    folder = tmp_path_factory.mktemp("tiny_llama")
    network.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def local(names, out, model, *more):
    return [
        *("--name-path", str(names), "--kind", "definitions", "--out", str(out), "--background"),
        *("--backend", "transformers", "--model", str(model), *more),
    ]


@needs_transformers
def test_a_local_model_answers_repeatably(names, tmp_path, tiny_model):
    texts = []
    for run, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = tmp_path / f"{run}.txt"
        more = ("--temperature", "1", "--seed", seed, "--retries", "200")
        assert main(local(names, out, tiny_model, *more)) == 0
        texts.append(out.read_text())
        assert set(load_vocabulary(names, out, background=True).auxiliary_texts) != {None}
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@needs_transformers
def test_an_interrupted_local_run_ends_like_a_whole_one(names, tmp_path, tiny_model, monkeypatch):
    more = ("--temperature", "1", "--retries", "200")
    whole, parts = tmp_path / "whole.txt", tmp_path / "parts.txt"
    assert main(local(names, whole, tiny_model, *more)) == 0
    add = Journal.add

    def interrupted(journal, name, text):
        add(journal, name, text)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", interrupted)
    for _ in range(2):
        assert main(local(names, parts, tiny_model, *more)) == 130
    monkeypatch.setattr(Journal, "add", add)
    assert main(local(names, parts, tiny_model, *more)) == 0
    assert parts.read_text() == whole.read_text()


@needs_transformers
def test_a_model_without_chat_template_is_refused(names, tmp_path, tiny_model, capsys):
    import shutil

    folder = tmp_path / "base_model"
    shutil.copytree(tiny_model, folder)
    for path in folder.glob("chat_template*"):
        path.unlink()
    config = folder / "tokenizer_config.json"
    options = json.loads(config.read_text())
    options.pop("chat_template", None)
    config.write_text(json.dumps(options))
    assert main(local(names, tmp_path / "o.txt", folder)) == 2
    assert "no chat template" in capsys.readouterr().err
    (folder / "model.safetensors").write_bytes(b"broken")
    assert main(local(names, tmp_path / "o.txt", folder)) == 2
    assert "cannot be loaded" in capsys.readouterr().err


@needs_transformers
def test_nothing_is_fetched_without_consent(names, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for model, size in (("meta-llama/Meta-Llama-3-8B-Instruct", "16 GB"), ("some/other", "unkn")):
        assert main(local(names, tmp_path / "o.txt", model)) == 2
        message = capsys.readouterr().err
        assert f"https://huggingface.co/{model}" in message
        assert size in message
        assert "--allow-download" in message
    assert main(local(names, tmp_path / "o.txt", "./no/such/folder")) == 2
    assert "existing folder" in capsys.readouterr().err


class FakeHub:
    """The hub's two calls that a download makes, served from a folder."""

    def __init__(self, folder, damaged=False):
        import hashlib
        from types import SimpleNamespace

        self.folder, self.asked = folder, None
        self.siblings = [
            SimpleNamespace(rfilename="original/consolidated.safetensors", size=10**12, lfs=None),
            SimpleNamespace(rfilename="pytorch_model.bin", size=10**12, lfs=None),
        ]
        for path in folder.iterdir():
            digest = hashlib.sha256(path.read_bytes() + b"x" * damaged).hexdigest()
            lfs = SimpleNamespace(sha256=digest) if path.suffix == ".safetensors" else None
            entry = SimpleNamespace(rfilename=path.name, size=path.stat().st_size, lfs=lfs)
            self.siblings.append(entry)
        self.sha = "abc"

    def model_info(self, model, revision, files_metadata):
        return self

    def snapshot_download(self, model, revision, allow_patterns):
        self.asked = (model, revision, sorted(allow_patterns))
        return str(self.folder)


@needs_transformers
@pytest.mark.parametrize("damaged", [False, True])
def test_a_download_says_its_size_and_is_verified(
    names, tmp_path, tiny_model, capsys, monkeypatch, damaged
):
    hub = FakeHub(tiny_model, damaged)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    more = ("--allow-download", "--temperature", "1", "--retries", "200")
    assert main(local(names, tmp_path / "o.txt", "some/model", *more)) == int(damaged)
    printed = capsys.readouterr()
    assert "Fetching some/model from https://huggingface.co/some/model (" in printed.out
    assert ("sha256" in printed.err) == damaged
    assert hub.asked == ("some/model", None, sorted(p.name for p in tiny_model.iterdir()))


def test_the_module_runs_as_a_command(names, tmp_path):
    command = [sys.executable, "-m", "itaclip", "texts", "--name-path", "nowhere.txt"]
    command += ["--kind", "synonyms", "--out", str(tmp_path / "o.txt"), "--backend", "openai"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nowhere.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_prompts_mention_every_shipped_class_sensibly():
    from itaclip.aux_text.prompts import first_message

    for group in load_class_names(PROJECT / "configs/cls_ade20k.txt"):
        for kind in KINDS:
            message = first_message(kind, group, ["cat", "dog"])
            assert f'"{group[0]}"' in message
            assert "{" not in message
