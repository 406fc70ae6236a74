"""Language models that answer one conversation at a time.

A backend is a function ``ask(messages, seed) -> answer``: messages as in the chat completions
protocol (``role``, ``content``), without a system message since some chat templates refuse one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..runtime.download import DownloadError
from ..runtime.files import one_line
from ..runtime.hub import hub_folder

Messages = list[dict[str, str]]
Backend = Callable[[Messages, int], str]

DEFAULT_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
MAX_NEW_TOKENS = 160  # a definition under 50 words, with room for a preamble
_KNOWN_SIZES = {DEFAULT_MODEL: "about 16 GB"}
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_INSTALL = "run `pip install 'itaclip[aux-text]'`."


class BackendError(RuntimeError):
    """The model or its server failed; what was answered before is kept."""


# ---- a local instruction model -----------------------------------------------------------------


def transformers_backend(
    model: str, temperature: float | None, timeout: float, allow_download: bool = False
) -> Backend:
    """An instruction model run on this machine.

    Args:
        model: A folder, or a model's name on the Hugging Face Hub.
        temperature: 0 or None takes the likeliest answer; above 0 samples, repeatably by seed.
        timeout: Seconds for one answer.
        allow_download: Whether a model that is not in the local cache may be fetched.

    Raises:
        InputError: If a package or the model is missing, or it is no instruction model.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise _missing_package("transformers", error) from None

    folder = _model_folder(model, allow_download)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype="auto", use_safetensors=True
        )
    except Exception as error:  # whatever a damaged or foreign folder makes the library raise
        raise InputError(
            f"--model: {model} cannot be loaded from {folder} ({one_line(error)}). Expected a "
            "causal language model with tokenizer and safetensors weights; if a download was "
            "interrupted, --allow-download continues it."
        ) from None
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"--model: {model} has no chat template, so it is no instruction model. "
            "Choose one that is, such as " + DEFAULT_MODEL + "."
        )
    network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature}
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def ask(messages: Messages, seed: int) -> str:
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(network.device)
        torch.manual_seed(seed)
        try:
            with torch.inference_mode():
                output = network.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    **sampling,
                    max_new_tokens=MAX_NEW_TOKENS,
                    max_time=timeout,
                    pad_token_id=padding,
                )
        except RuntimeError as error:  # out of memory, above all
            raise BackendError(f"{model} failed: {one_line(error)}") from None
        new_tokens = output[0, inputs["input_ids"].shape[1] :]
        return tokenizer.decode(new_tokens, skip_special_tokens=True)

    return ask


def _model_folder(model: str, allow_download: bool) -> Path:
    """The folder with the model's files: given, cached, or (if allowed) fetched."""
    given = Path(model).expanduser()
    if given.is_dir():
        return given
    size = _KNOWN_SIZES.get(model, "size unknown, often many GB")
    try:
        return hub_folder(
            model,
            key="--model",
            patterns=_FILES,
            may_download=allow_download,
            how_to_allow=f"add --allow-download to do so ({size}), or give --model a folder",
            say=partial(print, flush=True),
        )
    except DownloadError as error:
        raise BackendError(str(error)) from None


# ---- an OpenAI-compatible endpoint -------------------------------------------------------------


def openai_backend(
    model: str | None,
    base_url: str | None,
    temperature: float | None,
    timeout: float,
    retries: int,
) -> Backend:
    """A model behind any endpoint that speaks OpenAI's chat completions protocol.

    The key comes from ``OPENAI_API_KEY``; a server given by ``base_url`` may need none.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint, such as ``http://localhost:8000/v1``; None = the client's default.
        temperature: Sent if given; None leaves it to the endpoint.
        timeout: Seconds for one request.
        retries: Further attempts after a dropped connection, a rate limit or a server error.

    Raises:
        InputError: If the package, the model's name or the key is missing.
    """
    try:
        import openai
    except ImportError as error:
        raise _missing_package("openai", error) from None
    if not model:
        raise InputError("--model: expected the name of a model at the endpoint; add --model NAME.")
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
    if base_url and not re.match(r"https?://[^/\s]", base_url):
        raise InputError(
            f"--base-url: expected an address such as http://localhost:8000/v1, got {base_url!r}."
        )
    key = os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
    if key is None:
        raise InputError(
            "OPENAI_API_KEY: expected the endpoint's key in this environment variable; set it, "
            "or give --base-url of a server that needs none."
        )
    client = openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=retries)
    options = {} if temperature is None else {"temperature": temperature}
    where = str(client.base_url)

    def ask(messages: Messages, seed: int) -> str:
        try:
            reply = client.chat.completions.create(
                model=model, messages=messages, seed=seed, **options
            )
        except openai.APIStatusError as error:
            raise BackendError(
                f"{where} answered {error.status_code}: {error.message}"
                + _remedy(error.status_code)
            ) from None
        except openai.APITimeoutError:
            raise BackendError(
                f"{where} gave no answer within {timeout:g} s. Raise --timeout, or try later."
            ) from None
        except openai.APIConnectionError as error:
            raise BackendError(
                f"{where} cannot be reached ({error.__cause__ or error}). "
                "Check --base-url and whether the server runs."
            ) from None
        except openai.OpenAIError as error:
            raise BackendError(f"{where}: {error}") from None
        except ValueError:  # the body is no JSON
            raise BackendError(_NO_COMPLETION.format(where=where)) from None
        choices = getattr(reply, "choices", None)
        message = getattr(choices[0], "message", None) if choices else None
        if message is None:
            raise BackendError(_NO_COMPLETION.format(where=where))
        return message.content or ""

    return ask


_NO_COMPLETION = "{where} did not answer with a chat completion. Check --base-url."


def _remedy(status: int) -> str:
    return {
        400: " (If it refuses the temperature, add --temperature none.)",
        401: " (Check OPENAI_API_KEY.)",
        403: " (Check OPENAI_API_KEY.)",
        404: " (Check --model and --base-url.)",
        429: " (Rate limit or quota: try later, or raise --retries.)",
    }.get(status, "")


def _missing_package(package: str, error: ImportError) -> InputError:
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return InputError(f"--backend: the package '{package}' is not installed; {_INSTALL}")
    return InputError(
        f"--backend: the package '{package}' cannot be imported ({error}); {_INSTALL}"
    )
