"""CLIP checkpoints: a name or a path becomes openai-clip's own modules with verified weights.

``import clip`` needs torchvision, so the package's two files that matter are loaded by location.
"""

import hashlib
import http.client
import importlib.util
import os
import sys
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import InputError
from ..runtime.files import resolve_path
from .checkpoints import read_state_dict

_BASE_URL = "https://openaipublic.azureedge.net/clip/models"
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
SHIPPED_MODELS = {"storybook-tiny": Path(__file__).parents[1] / "assets" / "storybook-tiny.npz"}
_VOCABULARY = 49408  # tokens of CLIP's tokenizer
_MAX_CONTEXT = 4096  # tokens; CLIP has 77, variants for long texts a few hundred


@cache
def clip_module(name: str) -> ModuleType:
    """openai-clip's ``clip/<name>.py`` (``'model'`` or ``'simple_tokenizer'``), as a module."""
    package = importlib.util.find_spec("clip")
    if package is None or not package.submodule_search_locations:
        raise InputError("clip: openai-clip is not installed; run `pip install openai-clip`.")
    for folder in package.submodule_search_locations:
        path = Path(folder) / f"{name}.py"
        if path.is_file():
            full_name = f"_openai_clip_{name}"
            spec = importlib.util.spec_from_file_location(full_name, path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[full_name] = module
            spec.loader.exec_module(module)
            return module
    raise InputError(
        f"clip: the installed package 'clip' has no {name}.py, so it is not OpenAI's; run "
        "`pip install openai-clip`."
    )


def load_clip(name_or_path: str | Path) -> nn.Module:
    """Builds a CLIP model with its weights.

    Args:
        name_or_path: a name of :data:`OPENAI_MODELS` (downloaded once, sha256-verified, into CLIP's
            usual cache), ``'storybook-tiny'``, or the path of a TorchScript archive, a state dict
            (``.pt``), a ``.safetensors`` or a ``.npz`` file with OpenAI's key names.

    Returns:
        ``clip.model.CLIP`` in fp32, on the CPU, in eval mode, without gradients. Weights are taken
        as they are: fp32 checkpoints are not rounded to fp16 as ``clip.load`` does.

    Raises:
        InputError: unknown name, missing or damaged file, a ResNet, or weights that do not fit.
    """
    name = str(name_or_path)
    if name in SHIPPED_MODELS:
        return build_clip(read_state_dict(SHIPPED_MODELS[name]), name)
    if name in OPENAI_MODELS:
        return build_clip(read_state_dict(fetch_openai(name)), name)
    if name.startswith("RN"):
        raise InputError(_resnet_message(name))
    path = Path(name).expanduser()
    if not os.path.isfile(path):  # Path.is_file raises at names that are too long
        what = "a folder" if os.path.isdir(path) else "neither a file nor a known model"
        raise InputError(
            f"clip_model: {name!r} is {what}; expected the path of a checkpoint or one of "
            f"{', '.join([*OPENAI_MODELS, *SHIPPED_MODELS])}."
        )
    return build_clip(read_state_dict(path), name)


def _resnet_message(name: str) -> str:
    return (
        f"clip_model: {name!r} is a ResNet, whose attention pooling has no transformer blocks to "
        f"change; use a vision transformer ({', '.join(OPENAI_MODELS)})."
    )


def cache_folder() -> Path:
    """CLIP's usual folder for downloaded weights, shared with openai-clip itself."""
    return Path("~/.cache/clip").expanduser()


def fetch_openai(name: str, folder: Path | None = None, base_url: str = _BASE_URL) -> Path:
    """Returns the verified file of an OpenAI model, downloading it when it is not there.

    Says from where and how large, shows a progress bar, resumes an interrupted download, and waits
    for another process that downloads the same file.

    Raises:
        InputError: no connection, no room, or a checksum that differs.
    """
    sha256, file_name = OPENAI_MODELS[name]
    folder = folder or cache_folder()
    target = folder / file_name
    url = f"{base_url}/{sha256}/{file_name}"
    if target.is_file() and _sha256(target) == sha256:  # also in a folder that is read-only
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_file():
                if _sha256(target) == sha256:
                    return target
                print(
                    f"{target}: the checksum differs, so it is downloaded again.", file=sys.stderr
                )
                target.unlink()
            part = target.with_name(target.name + ".part")
            _download(url, part)
            if _sha256(part) != sha256:
                part.unlink()
                raise InputError(
                    f"{url}: the download's sha256 is not {sha256}, so it was removed; try again, "
                    f"or put the right file at {target}."
                )
            part.replace(target)
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
    ) as error:
        raise InputError(
            f"clip_model: {name!r} could not be fetched from {url} ({error}); connect to the web "
            f"and try again (the download resumes), or put the file at {target}."
        ) from error
    except OSError as error:
        raise InputError(
            f"clip_model: {name!r} could not be stored in {folder} ({error}); make room or make "
            "the folder writable."
        ) from error
    return target


def _download(url: str, part: Path) -> None:
    """Fetches ``url`` into ``part``, going on where an earlier try stopped."""
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the part is complete or too long: the checksum decides
            raise
        return
    with response:
        if start and response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        size = f"{total / 1e6:.0f} MB" if total else "size unknown"
        print(f"Downloading {url} ({size}) to {part.parent}", file=sys.stderr)
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True) as bar,
        ):
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_clip(state: dict[str, Tensor], source: str) -> nn.Module:
    """``clip.model.CLIP`` from a state dict with OpenAI's key names; sizes are read off the shapes.

    Raises:
        InputError: a ResNet, missing or unexpected keys, wrong shapes, or values not finite.
    """
    if any(key.startswith("visual.layer") for key in state):
        raise InputError(_resnet_message(source))
    for key, value in state.items():
        _check_tensor(key, value, source)
    model = _empty_clip(state, source)
    expected = model.state_dict()
    missing, unknown = (
        sorted(expected.keys() - state.keys()),
        sorted(state.keys() - expected.keys()),
    )
    if missing or unknown:
        fault = f"lacks {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r}"
        raise InputError(
            f"{source}: the checkpoint {fault} ({len(missing)} missing, {len(unknown)} unknown "
            "keys); expected the key names of OpenAI's CLIP."
        )
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise InputError(
                f"{source}: {key!r} has shape {tuple(value.shape)}, but the rest of the checkpoint "
                f"asks for {tuple(expected[key].shape)}; the file is not one CLIP model."
            )
    state = {key: value.float() for key, value in state.items()}
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise InputError(
                f"{source}: {key!r} holds values that are not finite; fetch or save the file again."
            )
    model.load_state_dict(state, assign=True)
    mask = model.build_attention_mask()
    for block in model.transformer.resblocks:  # a plain attribute, so it was left on 'meta'
        block.attn_mask = mask
    return model.requires_grad_(False).eval()


def _check_tensor(key: str, value: Tensor, source: str) -> None:
    """Refuses what is no plain array of numbers, or claims more numbers than there are."""
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not dense or not value.is_floating_point():
        raise InputError(
            f"{source}: {key!r} is a tensor of {value.dtype} ({value.layout}, {value.device}); "
            "expected plain floating-point weights."
        )
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(
            f"{source}: {key!r} claims {value.numel()} values, more than the file holds; fetch or "
            "save it again."
        )


def _empty_clip(state: dict[str, Tensor], source: str) -> nn.Module:
    """A CLIP without storage, of the sizes that the checkpoint's shapes imply."""

    def depth(prefix: str) -> int:
        suffix = ".attn.in_proj_weight"
        return sum(key.startswith(prefix) and key.endswith(suffix) for key in state)

    def shape(key: str, dimensions: int) -> torch.Size:
        if key not in state or state[key].ndim != dimensions or 0 in state[key].shape:
            raise InputError(
                f"{source}: the checkpoint lacks or misshapes {key!r}; expected the key names of "
                "OpenAI's CLIP."
            )
        return state[key].shape

    vision_width, _, _, patch = shape("visual.conv1.weight", 4)
    tokens, _ = shape("visual.positional_embedding", 2)
    width, embed_dim = shape("text_projection", 2)
    sizes = dict(
        embed_dim=embed_dim,
        image_resolution=patch * round((tokens - 1) ** 0.5),
        vision_layers=depth("visual.transformer.resblocks."),
        vision_width=vision_width,
        vision_patch_size=patch,
        context_length=shape("positional_embedding", 2)[0],
        vocab_size=shape("token_embedding.weight", 2)[0],
        transformer_width=width,
        transformer_heads=width // 64,
        transformer_layers=depth("transformer.resblocks."),
    )
    for key, low, high in (
        ("vision_layers", 1, len(state)),
        ("transformer_layers", 1, len(state)),
        ("image_resolution", patch, patch << 10),
        ("context_length", 2, _MAX_CONTEXT),
        ("vocab_size", _VOCABULARY, _VOCABULARY),
    ):
        if not low <= sizes[key] <= high:
            expected = low if low == high else f"{low} to {high}"
            raise InputError(
                f"{source}: {key} is {sizes[key]}, read off the checkpoint's shapes, but expected "
                f"{expected}; the file is not one CLIP model."
            )
    for key in ("vision_width", "transformer_width"):
        if sizes[key] < 64 or sizes[key] % 64:
            raise InputError(
                f"{source}: {key} is {sizes[key]}, but CLIP's heads are 64 wide; expected a "
                "multiple of 64."
            )
    with torch.device("meta"):
        return clip_module("model").CLIP(**sizes)


def model_path(clip_model: str | Path) -> str:
    """A checkpoint's path is looked up like the other paths; names pass through."""
    looks_like_path = str(clip_model).endswith((".pt", ".pth", ".safetensors", ".npz"))
    return str(resolve_path(clip_model, "clip_model")) if looks_like_path else str(clip_model)
