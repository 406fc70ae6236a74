"""Checkpoint files: exact tensors from sound ones; from all others a sentence, and no code run."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import CLIP_CONFIG, random_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from itaclip import InputError
from itaclip.clip_model import build_clip, fetch_openai, load_clip
from itaclip.clip_model.checkpoints import read_state_dict

CONFIG = CLIP_CONFIG | dict(vision_heads=1)
FUZZ = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def outcome(path):
    """The names of the tensors that were read, or ``'refused'`` where a sentence came out."""
    try:
        state = read_state_dict(path)
    except InputError as error:
        message = str(error)
    else:
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        return sorted(state)
    assert path.name in message and "\n" not in message
    return "refused"


class Branch(nn.Module):
    """Parameters and buffers of many types, half of them shared, turned or sliced."""

    def __init__(self):
        super().__init__()
        whole = torch.randn(7, 5)
        self.weight = nn.Parameter(whole)
        self.turned = nn.Parameter(whole.T)
        self.register_buffer("sliced", whole[2:5, ::2])
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("none", torch.empty(0, 4))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.names = ["a", "b"]
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Tree(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.visual = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.LayerNorm(5))
        self.blocks = nn.ModuleList([Branch().half(), Branch().bfloat16(), Branch().double()])
        self.scale = nn.Parameter(torch.ones([]))
        self.input_resolution = 224
        self.twin = self.blocks[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * self.scale


@pytest.mark.parametrize("compiled", ["script", "trace"])
def test_an_archive_is_read_as_pytorch_would_without_running_it(compiled, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    compile_ = torch.jit.script if compiled == "script" else torch.jit.trace
    arguments = () if compiled == "script" else (torch.ones(2, 3),)
    compile_(Tree().eval(), *arguments).save(str(path))
    expected = torch.jit.load(str(path)).state_dict()

    def refuse(*args, **kwargs):
        raise AssertionError("an archive was run")

    monkeypatch.setattr(torch.jit, "load", refuse)
    state = read_state_dict(path)
    assert state.keys() == expected.keys() and len(state) == 29
    for key, value in expected.items():
        assert state[key].dtype == value.dtype and state[key].shape == value.shape, key
        assert torch.equal(state[key], value), key


class RunsAtLoading(nn.Module):
    """TorchScript runs ``__setstate__`` when it loads an archive."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        print("code of the archive was run")
        self.weight = state[0]
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_code_of_an_archive_is_never_run(tmp_path, capfd):
    path = tmp_path / "model.pt"
    torch.jit.script(RunsAtLoading()).save(str(path))
    torch.jit.load(str(path))
    assert "was run" in capfd.readouterr().out
    assert outcome(path) in ("refused", [])
    assert "was run" not in capfd.readouterr().out


class Command:
    """Unpickling it makes a file."""

    def __init__(self, target, function=os.system, argument="touch {}"):
        self.call = function, (argument.format(target),)

    def __reduce__(self):
        return self.call


def replaced(source, target, name, content):
    """A copy of an archive with another part, and with checksums that are right again."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry.endswith(name) else old.read(entry))
    return target


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["bare", "state", "archive", "constants"])
@pytest.mark.parametrize("kind", ["system", "eval", "open"])
def test_malicious_pickles_run_nothing(where, kind, protocol, tmp_path):
    mark = tmp_path / "mark"
    function, argument = {
        "system": (os.system, "touch {}"),
        "eval": (eval, "__import__('pathlib').Path('{}').touch()"),
        "open": (os.mkdir, "{}"),
    }[kind]
    attack = pickle.dumps({"weight": Command(mark, function, argument)}, protocol=protocol)
    path = tmp_path / "weights.pt"
    if where == "bare":
        path.write_bytes(attack)
    elif where == "state":
        torch.save({"weight": torch.ones(2)}, tmp_path / "sound.pt")
        replaced(tmp_path / "sound.pt", path, "/data.pkl", attack)
    else:
        torch.jit.script(nn.Linear(2, 3)).save(str(tmp_path / "sound.pt"))
        part = "/data.pkl" if where == "archive" else "/constants.pkl"
        replaced(tmp_path / "sound.pt", path, part, attack)
    if where == "constants":  # never looked at
        assert read_state_dict(path).keys() == {"weight", "bias"}
    else:
        with pytest.raises(InputError, match=r"weights\.pt: cannot be read as a CLIP checkpoint"):
            read_state_dict(path)
    assert not mark.exists()


MODULE = b"c__torch__\nM\n)\x81"


@pytest.mark.parametrize(
    "content",
    [
        MODULE + b"}X\1\0\0\0aK\1sb",  # no tensor at all: an empty state
        b"]",
        b"N",
        MODULE + b"q\0}X\1\0\0\0ah\0sb",  # a module within itself
        b"c__torch__\nM\n}X\1\0\0\0aK\1sb",  # a changed class
        b"cbuiltins\neval\nX\3\0\0\x001+1\x85R",
        b"ctorch._utils\n_rebuild_tensor_v2\n(tR",
        MODULE * 3,
        b"ctorch\nFloatStorage\nQ",
        b"X\2\0\0\0hiQ",
    ],
)
def test_odd_attributes_are_refused(content, tmp_path):
    torch.jit.script(nn.Linear(2, 3)).save(str(tmp_path / "sound.pt"))
    path = replaced(
        tmp_path / "sound.pt", tmp_path / "odd.pt", "/data.pkl", b"\x80\2" + content + b"."
    )
    assert outcome(path) in ("refused", [])
    torch.jit.script(nn.Linear(2, 3)).save(str(path))  # nothing was changed for the next file
    assert read_state_dict(path).keys() == {"weight", "bias"}


# ---- damage -------------------------------------------------------------------------------------


def small_files(folder):
    """One file of every kind, by name."""
    state = {"a.weight": torch.arange(96.0).view(8, 12), "b": torch.ones(3)}
    torch.save(state, folder / "zip.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(nn.Linear(6, 5)).save(str(folder / "script.pt"))
    safetensors.torch.save_file(state, folder / "a.safetensors")
    np.savez_compressed(folder / "a.npz", **{k: v.numpy() for k, v in state.items()})
    np.savez(folder / "b.npz", **{k: v.numpy() for k, v in state.items()})
    return ["zip.pt", "old.pt", "script.pt", "a.safetensors", "a.npz", "b.npz"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return {name: (folder / name).read_bytes() for name in small_files(folder)}


@pytest.mark.parametrize(
    "name", ["zip.pt", "old.pt", "script.pt", "a.safetensors", "a.npz", "b.npz"]
)
def test_half_a_file_is_named(name, sound, tmp_path):
    path = tmp_path / name
    content = sound[name]
    for length in (0, 1, 3, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cannot be read as a CLIP checkpoint") as caught:
            read_state_dict(path)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["zip.pt", "script.pt", "a.npz", "b.npz"])
def test_one_wrong_bit_in_the_values_is_noticed(name, sound, tmp_path):
    with zipfile.ZipFile(io.BytesIO(sound[name])) as archive:
        entry = max(archive.infolist(), key=lambda e: ("data/" in e.filename, e.file_size))
        start = entry.header_offset + 30 + len(entry.filename) + len(entry.extra)
    content = bytearray(sound[name])
    content[start + entry.compress_size // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["zip.pt", "old.pt", "script.pt", "a.safetensors", "a.npz", "b.npz"]
)
@FUZZ
@given(data=st.data())
def test_mutated_files_never_end_in_anything_else(name, data, sound, tmp_path):
    content = bytearray(sound[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=0, max_size=6))
        content[at : at + data.draw(st.integers(0, 6))] = patch
    path = tmp_path / name
    path.write_bytes(content)
    outcome(path)


def test_bombs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 24))
    with pytest.raises(InputError, match="unpacks to more"):
        read_state_dict(tmp_path / "a.npz")


# ---- tensors that do not make a CLIP ------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_state():
    return dict(random_clip(layers=1, width=64, text_layers=1).state_dict())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ln_final.bias", torch.full((64,), torch.inf), "not finite"),
        ("ln_final.bias", torch.full((64,), 1e300, dtype=torch.float64), "not finite"),
        ("ln_final.bias", torch.ones(64, dtype=torch.int64), "floating-point"),
        ("ln_final.bias", torch.ones(64, dtype=torch.complex64), "floating-point"),
        ("ln_final.bias", torch.ones(64).to_sparse(), "floating-point"),
        ("ln_final.bias", torch.ones(64, device="meta"), "floating-point"),
        ("ln_final.bias", torch.ones(1).expand(64), "more than the file holds"),
        ("visual.conv1.weight", torch.ones(64), "visual.conv1.weight"),
        ("visual.conv1.weight", torch.ones(0, 3, 16, 16), "visual.conv1.weight"),
        ("visual.positional_embedding", torch.ones([]), "visual.positional_embedding"),
        ("visual.positional_embedding", torch.ones(1, 64), "image_size is 0"),
        (
            "token_embedding.weight",
            torch.ones(100, 64),
            "vocabulary_size is 100, .* expected 49408;",
        ),
        ("positional_embedding", torch.ones(5000, 64), "context_length is 5000"),
        ("text_projection", torch.ones(65, 32), "text_projection.*65|65 wide|asks for"),
    ],
)
def test_tensors_that_make_no_clip(key, value, words, clip_state):
    with pytest.raises(InputError, match=words) as caught:
        build_clip({**clip_state, key: value}, "weights.pt", CONFIG)
    assert "weights.pt" in str(caught.value)


@FUZZ
@given(data=st.data())
def test_any_other_shape_is_named(data, clip_state):
    key = data.draw(st.sampled_from(sorted(clip_state)))
    shape = data.draw(st.lists(st.integers(0, 70), max_size=4))
    if list(clip_state[key].shape) == shape:
        return
    with pytest.raises(InputError, match=r"weights\.pt"):
        build_clip({**clip_state, key: torch.zeros(shape)}, "weights.pt", CONFIG)


def test_no_blocks(clip_state):
    state = {k: v for k, v in clip_state.items() if not k.startswith("transformer.")}
    with pytest.raises(InputError, match="text_layers is 0"):
        build_clip(state, "weights.pt", CONFIG)


def test_paths_that_are_no_models(tmp_path):
    with pytest.raises(InputError, match="expected a folder that describes its model"):
        load_clip(tmp_path)
    for path in ("nowhere.pt", "a\0b.pt", "x" * 5000, ""):
        with pytest.raises(InputError, match="clip_model"):
            load_clip(path)


def test_a_verified_file_in_a_folder_that_is_read_only(tmp_path, monkeypatch):
    """No lock can be made there, and none is needed."""
    import hashlib

    from itaclip.clip_model import sources

    (tmp_path / "a.pt").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(sources.OPENAI_MODELS, "ViT-test", (sha256, "a.pt"))

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "open", refuse)
    assert fetch_openai("ViT-test", tmp_path) == tmp_path / "a.pt"


# ---- attacks and stand-ins: refused by their table, within 2 s and 200 MB ------------------------


def with_data_pkl(path, content, **storages):
    """An archive as PyTorch writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", "3")
        for key, values in storages.items():
            archive.writestr(f"a/data/{key}", values)


def shared_storage(path, tensors, numel):
    """Many tensors over one storage of ``numel`` values, as a state dict."""
    whole = torch.zeros(numel, dtype=torch.float16)
    torch.save({f"t{i}": whole for i in range(tensors)}, path)


def memo_bomb(path, prefix=b""):
    """The C unpickler makes room for as many entries as a memo's index says."""
    with_data_pkl(path, prefix + b"\x80\x02}r\xff\xff\xff\x1f.")


def torchscript_memo_bomb(path):
    memo_bomb(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")


def empty_tensors(path, count=150_000):
    entry = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(entry % i for i in range(count)) + "}").encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def many_zip_entries(path):
    """A directory of nine megabytes, which takes many times as much when it is read."""
    size = 9 << 20
    end = b"PK\5\6" + bytes(4) + b"\xff" * 4 + size.to_bytes(4, "little") + bytes(6)
    path.write_bytes(b"PK\3\4" + bytes(size) + end)


def bytearray_bomb(path):
    with_data_pkl(path, b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.")


def nested_keys(path):
    """Tuples within tuples: to hash them takes 2^64 steps."""
    with_data_pkl(path, b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 64 + b"h\x00K\x01s.")


def endless_pickle(path):
    with_data_pkl(path, b"\x80\x02" + b"}" * 3_000_000 + b".")


def large_array(path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824,), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def large_string(path):
    with_data_pkl(path, b"\x80\x02X\xff\xff\xff\x7fabc.")


ATTACKS = {
    "memo index": memo_bomb,
    "memo index in TorchScript": torchscript_memo_bomb,
    "memo index in a pickle": lambda path: path.write_bytes(b"\x80\x02}r\xff\xff\xff\x1f."),
    "tensors over one storage": lambda path: shared_storage(path, 2000, 1 << 20),
    "empty tensors": empty_tensors,
    "entries of an archive": many_zip_entries,
    "a call of bytearray": bytearray_bomb,
    "keys that never hash": nested_keys,
    "a pickle of millions of steps": endless_pickle,
    "a large array without values": large_array,
    "a string of two gigabytes": large_string,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": lambda path: os.mkfifo(path),
    "a tensor beyond its storage": lambda path: with_data_pkl(
        path,
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00"
        b"\x8a\x05\x00\x00\x00\x00\x01\x85K\x00\x85\x89}tRs.",
        **{"0": bytes(4)},
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_before_anything_is_allocated(attack, tmp_path):
    import resource
    import time

    path = tmp_path / "weights.pt"
    ATTACKS[attack](path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(InputError, match=r"weights\.pt: ") as caught:
        load_clip(path, CONFIG)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kB


def test_stand_ins_for_weights_have_their_own_sentence(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(InputError, match=r"pointer of Git LFS.*git lfs pull"):
        load_clip(path)
    path.write_text("\n <!DOCTYPE html><html><body>Log in</body></html>")
    with pytest.raises(InputError, match="web page"):
        load_clip(path)


@pytest.mark.parametrize("how", ["state_dict", "model", "module.", "model.", "both", "args"])
def test_wrappings_of_training_code_are_taken_off(how, clip_state, tmp_path):
    from argparse import Namespace

    state = {**clip_state, "logit_scale": clip_state["logit_scale"].reshape(1)}
    if how == "both":
        state = {"state_dict": {f"module.model.{k}": v for k, v in state.items()}, "epoch": 3}
    elif how == "args":
        state = {"model": state, "args": Namespace(lr=0.1, name="a"), "optimizer": {"state": {}}}
    elif how.endswith("."):
        state = {how + k: v for k, v in state.items() if k != "logit_scale"}
    else:
        state = {how: state, "epoch": 3}
    torch.save(state, tmp_path / "a.pt")
    loaded = load_clip(tmp_path / "a.pt", CONFIG).state_dict()
    assert loaded.keys() == clip_state.keys()
    assert all(torch.equal(loaded[k], v) for k, v in clip_state.items() if k != "logit_scale")


def test_a_file_is_told_by_its_content(clip_state, tmp_path):
    safetensors.torch.save_file(clip_state, tmp_path / "a.pt")
    torch.save(clip_state, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        assert load_clip(path, CONFIG).state_dict().keys() == clip_state.keys()
