"""Files here and in object stores: paths go by Python, URLs such as ``s3://`` by pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import InputError
from ..runtime.files import one_line, open_regular, write_whole

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

# What a single picture's file may hold; more is refused before it is read.
MAX_FILE_BYTES = 256 << 20
# What object stores say when they, or the way to them, are down: no fault of the picture.
_OUTAGES = ("NETWORK_CONNECTION", "SLOW_DOWN", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE",
            "REQUEST_TIMEOUT", "HTTP status 5", "timed out", "imeout was reached")  # fmt: skip
_WEB = ("http://", "https://", "ftp://")


class OutageError(InputError):
    """An object store does not answer: the run ends, and goes on when it is started again."""


def check_outage(error: BaseException, place: str) -> None:
    """Raises:
    OutageError: the error is an outage, which must not be taken for a bad picture.
    """
    if isinstance(error, OutageError):
        raise error
    if is_remote(place) and any(sign in str(error) for sign in _OUTAGES):
        raise OutageError(
            f"{place}: the object store does not answer ({one_line(error)}); finished parts are "
            "kept: start again when it does."
        ) from error


def is_remote(place: str) -> bool:
    """Whether a place is a URL."""
    return "://" in place


def need_pyarrow(what: str) -> None:
    """Refuses what takes pyarrow where it is missing.

    Raises:
        InputError: in a sentence.
    """
    if find_spec("pyarrow") is None:
        raise InputError(f"{what} takes pyarrow: pip install 'itaclip[ray]'.")


def filesystem(url: str) -> tuple[FileSystem, str]:
    """pyarrow's file system of a URL, or fsspec's where pyarrow has none, and the path in it.

    Raises:
        InputError: the web, a scheme that nobody knows, or no access.
    """
    if url.startswith(_WEB):
        raise InputError(
            f"{url}: nothing is fetched from the web; download it, or give a path, s3:// or gs://."
        )
    need_pyarrow(f"{url}: an object store")
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        return FileSystem.from_uri(url)
    except ArrowInvalid:
        pass  # a scheme of fsspec's, perhaps
    except OSError as error:
        raise InputError(f"{url}: cannot be reached ({one_line(error)}).") from error
    try:
        import fsspec

        handler, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{url}: no file system of this kind ({one_line(error)}); give a path, s3:// or gs://."
        ) from error
    return PyFileSystem(FSSpecHandler(handler)), path


@contextmanager
def opened(place: str) -> Iterator[IO[bytes]]:
    """A file for reading, wherever it is.

    Raises:
        InputError, OSError: there is none, it is no file, or it cannot be read.
    """
    if is_remote(place):
        files, path = filesystem(place)
        with files.open_input_file(path) as file:
            yield file
    else:
        with open_regular(Path(place).expanduser()) as file:
            yield file


def read_bounded(place: str) -> bytes:
    """A picture's file, if it is not larger than :data:`MAX_FILE_BYTES`.

    Raises:
        InputError: no such file, one that cannot be read, or a larger one.
    """
    try:
        with opened(place) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{place}: no such file.") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        check_outage(error, place)
        raise InputError(f"{place}: cannot be read ({one_line(error)}).") from error
    check_bytes(len(data), place)
    return data


def check_bytes(size: int, name: str) -> None:
    """Refuses a picture whose file is too large."""
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{name}: the file has more than {MAX_FILE_BYTES >> 20} MB, which no picture needs; "
            "shrink it."
        )


class Place:
    """A folder to write into, here or in an object store; files in it are whole or not there."""

    def __init__(self, where: str) -> None:
        self.where = where
        if is_remote(where):
            self._files, self._root = filesystem(where.rstrip("/"))
            self.folder = None
        else:
            self.folder = Path(where).expanduser()
            if self.folder.exists() and not self.folder.is_dir():
                raise InputError(f"--out: {where}: expected a folder, but this is a file.")

    def path(self, name: str) -> str:
        """The full name of a file, for messages."""
        return f"{self.where.rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """Name → bytes of the files at the top of the folder."""
        if self.folder is not None:
            if not self.folder.is_dir():
                return {}
            return {p.name: p.stat().st_size for p in self.folder.iterdir() if p.is_file()}
        from pyarrow.fs import FileSelector, FileType

        found = self._files.get_file_info(FileSelector(self._root, allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type == FileType.File}

    def read(self, name: str) -> bytes:
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        with self._files.open_input_file(f"{self._root}/{name}") as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Writes a file; one that is there already is replaced as a whole.

        Raises:
            InputError: it cannot be written.
        """
        if self.folder is not None:
            write_whole(self.folder / name, data)
            return
        try:
            parent = f"{self._root}/{name}".rpartition("/")[0]
            self._files.create_dir(parent, recursive=True)
            # An object appears when its upload ends; all of it is at hand, so nothing breaks off.
            with self._files.open_output_stream(f"{self._root}/{name}") as file:
                file.write(data)
        except OSError as error:
            raise InputError(
                f"{self.path(name)}: cannot be written ({one_line(error)})."
            ) from error
