"""The one way in which every door (``eval.py``, ``itaclip``, tools) ends.

    0    done
    1    done, but something was left out, as listed; or a check found errors
    2    bad input: one sentence on stderr that names it and says how to mend it
    130  interrupted (SIGINT); 143: asked to stop (SIGTERM)

``--traceback`` anywhere on a command line, or ``ITACLIP_DEBUG=1``, also shows where an error came
from. An error of the program itself is never dressed as the user's: it ends in its traceback.

Nothing heavy is imported here: a door may be up before torch is.
"""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable

from ..errors import InputError
from .files import PROJECT_ROOT, one_line, printable

TRACEBACK = "--traceback"
_DEBUG = "ITACLIP_DEBUG"
_SCRIPTS = {"eval": "eval.py", "prepare": "datasets/prepare.py", "check": "datasets/check.py"}
# Exceptions of other libraries that carry one of ours as their cause, by name: importing them costs
# seconds.
_WRAPPERS = ("RayTaskError", "UserCodeException")


# Package → this project's extra that brings it.
_EXTRAS = {"mmseg": "mmseg", "mmcv": "mmseg", "mmengine": "mmseg", "gradio": "app", "ray": "ray"}


class Stopped(KeyboardInterrupt):
    """The user or the system asked to stop; ``exit_code`` is the shell's, 128 and the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class ProcessLostError(RuntimeError):
    """Another process of the run ended or gives no sign of life."""


def run_tool(main: Callable[[], object]) -> int:
    """Runs a door's main function and returns the exit code; messages go to stderr.

    Args:
        main: its result is the exit code where it is an integer.

    Raises:
        Exception: whatever is neither bad input nor a lack of room: the program's own error.
        SystemExit: as ``main`` raises it, such as argparse.
    """
    if TRACEBACK in sys.argv[1:]:
        sys.argv.remove(TRACEBACK)
        os.environ[_DEBUG] = "1"
    try:
        result = main()
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else 0
    except Stopped as error:
        _tell(error, str(error))
        return error.exit_code
    except KeyboardInterrupt as error:
        _tell(error, "interrupted")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except ProcessLostError as error:
        _tell(error, f"error: {error}")
        return 1
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        _tell(error, f"error: {message}")
        return 2


def door(command: str) -> str:
    """How a command is written here: a script of the checkout, or a command of the program."""
    script = _SCRIPTS[command]
    return f"python {script}" if (PROJECT_ROOT / script).is_file() else f"itaclip {command}"


def explanation(error: BaseException) -> str | None:
    """The sentence for bad input, or for a lack of room or memory; None for any other error.

    Exceptions that were handled on the way (``__context__``) say nothing of the user's input; a
    cause counts where a library is known to wrap what it meets.
    """
    if isinstance(error, InputError):
        return _own_words(error)
    if isinstance(error, OSError):
        return _disk_message(error)
    if type(error).__name__.partition("(")[0] in _WRAPPERS:
        cause = getattr(error, "cause", None) or error.__cause__
        return None if cause is None else explanation(cause)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(package)
        return extra and (
            f"{package} is not installed, and this needs it; run: pip install 'itaclip[{extra}]'"
        )
    return _memory_message(error)


def _tell(error: BaseException, message: str) -> None:
    if os.environ.get(_DEBUG, "0") not in ("", "0"):
        traceback.print_exception(error)
    if not getattr(error, "silent", False):
        notes = getattr(error, "__notes__", ())
        print(printable("\n".join([message, *notes])), file=sys.stderr, flush=True)


def _own_words(error: InputError) -> str:
    """The sentence itself: libraries put words of their own before it."""
    # A data loader's process sends its traceback as the message.
    text = re.sub(r"(?s)^Caught \w+ in .*\n[\w.]*(?:Error|Exception): ", "", str(error))
    # mmengine's registry names what it was building.
    return re.sub(r"^class `\w+` in \S+: ", "", text).strip()


def _disk_message(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) and not error.filename:
        return (
            f"a file of the run could not be written ({error.strerror}); make room on the disk of "
            "the work dir, or give another --work-dir."
        )
    if not error.filename or not error.strerror:
        return str(error)
    name = str(error.filename)
    name = name if len(name) <= 200 else name[:199] + "…"
    return f"{name}: {error.strerror}; check that the place exists, may be used, and has room."


def _memory_message(error: BaseException) -> str | None:
    """The sentence for a run that asked for more memory than there is; None for other errors."""
    torch = sys.modules.get("torch")
    gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    cpu = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if not (isinstance(error, MemoryError) or gpu or cpu):
        return None
    return (
        f"there is not enough memory ({one_line(error)}); take model.window_batch=1, "
        "model.return_scores=False for large images and many classes, or smaller windows."
    )
