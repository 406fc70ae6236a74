"""Repositories of the Hugging Face Hub: a local folder with the files that are wanted."""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from ..errors import InputError
from .download import DownloadError, human_size, say_on_stderr
from .files import sha256_of

HUB = "https://huggingface.co"


def hub_folder(
    name: str,
    *,
    key: str,
    patterns: Sequence[str],
    one_of: Sequence[str] = (),
    revision: str | None = None,
    complete: Callable[[Path], bool] | None = None,
    may_download: bool = True,
    how_to_allow: str = "",
    say: Callable[[str], None] = say_on_stderr,
) -> Path:
    """The local folder of a repository of the Hugging Face Hub, fetched where it is missing.

    huggingface_hub does the work: its cache, its progress bars, its resuming; large files are held
    against their sha256 after a download.

    Args:
        name: ``OWNER/NAME``.
        key: the config's key or the option that named it, for messages.
        patterns: of the files wanted, at the repository's top: ``*.json``.
        one_of: patterns of which only the first that the repository has is wanted too.
        revision: branch, tag or commit; None takes the newest.
        complete: says whether a cached folder holds all that is needed: then nothing is asked of
            the net. None asks at every call that may download.
        may_download: whether files may be fetched.
        how_to_allow: clause for the message where they may not.
        say: tells the user a line.

    Raises:
        InputError: no such repository, not cached and not to be fetched, or consent is missing.
        DownloadError: it could not be fetched, or is damaged.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{key}: {name!r} lies on the Hugging Face Hub, which needs huggingface_hub; run "
            "`pip install 'itaclip[transformers]'`."
        ) from None
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise InputError(
            f"{key}: expected an existing folder or a repository such as OWNER/NAME, but got "
            f"{name!r}."
        )
    if complete is not None or not may_download:
        try:
            # Of the patterns alone: other files of the repository were never wanted.
            cached = Path(
                huggingface_hub.snapshot_download(
                    name,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=list(patterns),
                )
            )
        except (OSError, ValueError):
            cached = None
        if cached is not None and (complete is None or complete(cached)):
            return cached
    if not may_download:
        raise InputError(
            f"{key}: {name} is not in the local cache. It would be fetched from {HUB}/{name}: "
            f"{how_to_allow or 'download it, or give a folder'}."
        )
    return _fetched_from_hub(name, key, patterns, one_of, revision, say)


def _fetched_from_hub(
    name: str,
    key: str,
    patterns: Sequence[str],
    one_of: Sequence[str],
    revision: str | None,
    say: Callable[[str], None],
) -> Path:
    import huggingface_hub
    from huggingface_hub import constants, errors

    at = f"{constants.ENDPOINT}/{name}"  # $HF_ENDPOINT names a mirror
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
        files = [file for file in info.siblings if "/" not in file.rfilename]
        chosen = [p for p in one_of if any(fnmatch(file.rfilename, p) for file in files)][:1]
        wanted = [
            file for file in files if any(fnmatch(file.rfilename, p) for p in (*patterns, *chosen))
        ]
        say(f"Fetching {name} from {at} ({human_size(sum(f.size or 0 for f in wanted))})")
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=[file.rfilename for file in wanted]
            )
        )
    except errors.GatedRepoError:
        raise InputError(
            f"{key}: {name} asks for consent to its licence: accept it at {at}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{key}: there is no model {name} at {constants.ENDPOINT}.") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{key}: {at} has no revision {revision!r}; correct it.") from None
    except (errors.HfHubHTTPError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DownloadError(
            f"{key}: {name} could not be fetched from {at} ({reason}); run the same command again "
            "to go on from where it stopped, or give a folder."
        ) from None
    for file in wanted:
        expected = getattr(file.lfs, "sha256", None)
        if expected and sha256_of(folder / file.rfilename) != expected:
            raise DownloadError(
                f"{folder / file.rfilename} is damaged (its sha256 is not {expected}). Delete it "
                "and repeat the command."
            )
    return folder
