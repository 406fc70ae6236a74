"""Where models come from: names, the Hugging Face Hub, folders and files.

Also for other backbones than CLIP: :func:`model_folder` turns ``hf:OWNER/NAME[@REVISION]`` or a
folder into a local folder, and :func:`itaclip.clip_model.folders.read_folder` reads its
weights, in one file or in shards.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..runtime.download import Download, fetch
from ..runtime.files import PROJECT_ROOT, sha256_of
from ..runtime.hub import hub_folder

_HOSTS = (
    "https://openaipublic.azureedge.net/clip/models",
    "https://openaipublic.blob.core.windows.net/clip/models",
)
MIRROR = "ITACLIP_MIRROR"
"""Environment variable: an address under which OpenAI's files lie by their names."""

# OpenAI name → (sha256, file name); the sha256 is part of the address.
OPENAI_MODELS = {
    "ViT-B/32": (
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "ViT-B-32.pt",
    ),
    "ViT-B/16": (
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        "ViT-B-16.pt",
    ),
    "ViT-L/14": (
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        "ViT-L-14.pt",
    ),
    "ViT-L/14@336px": (
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
        "ViT-L-14-336px.pt",
    ),
}
_MEGABYTES = {"ViT-B/32": 354, "ViT-B/16": 351, "ViT-L/14": 933, "ViT-L/14@336px": 934}
SHIPPED_MODELS = {"storybook-tiny": Path(__file__).parents[1] / "assets" / "storybook-tiny.npz"}

HUB_PREFIX = "hf:"
# A repository's weights: the first of these that it has.
WEIGHTS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
)
_DESCRIPTIONS = ("*.json", "*.txt", "*.model")


def cache_folder() -> Path:
    """CLIP's usual folder for downloaded weights, shared with openai-clip itself."""
    return Path("~/.cache/clip").expanduser()


def fetch_openai(name: str, folder: Path | None = None, base_url: str | None = None) -> Path:
    """Returns the verified file of an OpenAI model, downloading it when it is not there.

    Says from where and how large, shows a progress bar, resumes an interrupted download, and waits
    for another process that downloads the same file. Another file of that name is kept aside.

    Args:
        name: of :data:`OPENAI_MODELS`.
        folder: None takes :func:`cache_folder`.
        base_url: where the files lie; None takes OpenAI's two hosts, or ``$ITACLIP_MIRROR``.

    Raises:
        InputError: no connection, no room, or a checksum that differs.
    """
    sha256, file_name = OPENAI_MODELS[name]
    folder = folder or cache_folder()
    hosts = _HOSTS if base_url is None else (base_url,)
    urls = [f"{host}/{sha256}/{file_name}" for host in hosts]
    download = Download(
        file_name,
        urls[0],
        others=tuple(urls[1:]),
        about=f"about {_MEGABYTES[name]} MB" if name in _MEGABYTES else "of unknown size",
        checksum=f"sha256:{sha256}",
    )
    return fetch(
        download,
        folder,
        mirror=os.environ.get(MIRROR) or None if base_url is None else None,
        verify=True,
        otherwise=f"put the file of {name} at {folder / file_name}, or set {MIRROR}",
        elsewhere="put the file elsewhere and give its path",
    )


def is_hub_name(name: str) -> bool:
    return name.startswith(HUB_PREFIX)


def model_folder(name: str | Path, key: str = "clip_model") -> Path:
    """The local folder of a model: a folder, or a repository ``hf:OWNER/NAME[@REVISION]``.

    A repository is fetched once, which is said, into huggingface_hub's cache; its offline mode
    (``HF_HUB_OFFLINE``) and mirror (``HF_ENDPOINT``) count. Its large files are held against their
    sha256 at every use.

    Args:
        name: as in the config.
        key: the config's key, for messages.

    Raises:
        InputError: no such folder or repository, no connection, or a damaged file.
    """
    name = str(name)
    if not is_hub_name(name):
        path = Path(name).expanduser()
        for place in [path] if path.is_absolute() else [Path.cwd() / path, PROJECT_ROOT / path]:
            if os.path.isdir(place):
                return place
        raise InputError(f"{key}: expected a folder, but there is none at {name}.")
    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository) or (
        name.endswith("@") or not re.fullmatch(r"[\w./-]*", revision)
    ):
        raise InputError(
            f"{key}: expected 'hf:OWNER/NAME' or 'hf:OWNER/NAME@REVISION', but got {name!r}."
        )
    folder = hub_folder(
        repository,
        key=key,
        patterns=_DESCRIPTIONS,
        one_of=WEIGHTS,
        revision=revision or None,
        complete=_has_weights,
    )
    for path in _weights(folder):
        _check_blob(path)
    return folder


def _weights(folder: Path) -> Sequence[Path]:
    return next((found for p in WEIGHTS if (found := sorted(folder.glob(p)))), ())


def _has_weights(folder: Path) -> bool:
    """Whether a cached repository is whole: a description, and weights with all their shards."""
    found = _weights(folder)
    if not found or not any(folder.glob("*config.json")):
        return False
    match = re.search(r"-of-(\d+)", found[0].name)
    return match is None or len(found) == int(match[1])


def _check_blob(path: Path) -> None:
    """In the Hub's cache, a large file lies under its own sha256."""
    name = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", name) and sha256_of(path) != name:
        raise InputError(
            f"{path}: is damaged (its sha256 is not {name}); delete {path.resolve()} and it is "
            "fetched again."
        )
