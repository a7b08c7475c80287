"""Files and folders that appear whole or not at all: written beside their place, then renamed.

A process that is killed, a disk that is full: what was there before is there still, or what is new is there complete.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from zoo.errors import DataError

SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
HERE = -100  # AT_FDCWD of Linux: paths are relative to the current folder


def as_path(given: Any, usage: str) -> Path:
    """Return what was given as a path.

    Parameters
    ----------
    given
        What a user gave.
    usage
        How the call is written.

    Raises
    ------
    DataError
        If it is no text and no path, or one that the system does not take.
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise DataError(f"a path is text or a pathlib.Path, not {type(given).__name__}: {usage}")
    if not os.fspath(given) or "\0" in os.fspath(given):
        raise DataError(f"{os.fspath(given)!r} is no path: {usage}")
    try:
        os.stat(given)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise DataError(f"the path {os.fspath(given)}: {error.strerror}; {usage}") from error
    return Path(given)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Hand out a path beside a file, which becomes that file when all has been written; folders above are made.

    Raises
    ------
    DataError
        If it cannot be written, naming the path and why. What was there before is as it was.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe has no place to rename to
        with _told(path):
            yield path
        return
    target = path.resolve() if path.is_symlink() else path
    with _told(path), _parents(target):
        if target.is_dir():
            raise IsADirectoryError(None, "it is a folder; give the name of a file")
        beside = _beside(target)
        try:
            yield beside / target.name
            _settle(beside)
            os.replace(beside / target.name, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Hand out an empty folder beside one, whose place it takes when all has been written; folders above are made.

    Raises
    ------
    DataError
        If it cannot be written, naming the path and why. What was there before is as it was.
    """
    target = folder.resolve()
    with _told(folder), _parents(target):
        restore(target)
        inside = target.is_dir() and _stays(target)
        beside = _beside(target / target.name if inside else target)
        try:
            if inside and any(p != beside for p in target.iterdir()):
                raise OSError(
                    None,
                    "it is the current folder or a mount point, or what it is in cannot be written to, so what is "
                    "there cannot be replaced as a whole; give a folder in it",
                )
            yield beside
            _settle(beside)
            if inside:  # empty before: the files go in one by one, those by which a run is known last
                for file in sorted(beside.iterdir(), key=lambda p: p.suffix == ".json"):
                    os.rename(file, target / file.name)
            elif not target.is_dir():
                os.rename(beside, target)
            else:
                _swap(beside, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def restore(folder: Path) -> None:
    """Put back what a process that was killed had laid aside, where folders cannot be exchanged in one step."""
    aside = _aside(folder.absolute())
    if not os.path.lexists(folder) and aside.is_dir():
        os.rename(aside, folder)


def is_passing(path: Path) -> bool:
    """Whether a path is what a process was writing when it was killed."""
    return re.fullmatch(r"\..*\.saving-.*-\d+-.*", path.name) is not None


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Make errors of the operating system errors of the zoo."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DataError(f"{path} could not be written: {why}. What was there before is as it was") from error


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the folders above a path, and remove those that were made if it comes to nothing."""
    made = [p for p in target.parents if not os.path.lexists(p)]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _beside(target: Path) -> Path:
    """Make a hidden folder beside a path, and remove those of processes that were killed."""
    host = socket.gethostname().replace("-", "_")
    prefix = f".{target.name[:100]}.saving-"
    for left in target.parent.glob(f"{_literal(prefix)}*-*-*"):
        other, _, rest = left.name.removeprefix(prefix).partition("-")
        if other == host and not _alive(int(rest.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{prefix}{host}-{os.getpid()}-", dir=target.parent))
    plain = made / "mode"
    plain.mkdir()  # what the umask allows, which mkdtemp does not ask and which cannot be read without setting it
    made.chmod(stat.S_IMODE(plain.stat().st_mode))
    plain.rmdir()
    return made


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before")


def _literal(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _settle(folder: Path) -> None:
    """Give all files the mode that the folder's implies, whichever library wrote them, and have them on the disk."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stays(folder: Path) -> bool:
    """Whether a folder has to stay what it is: somebody stands in it, or it cannot be renamed."""
    return folder.samefile(Path.cwd()) or os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK)


def _swap(new: Path, old: Path) -> None:
    """Exchange two folders: in one step where the system has it, so that there is no moment without either."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(new), os.fsencode(old)
    if hasattr(library, "renameat2") and library.renameat2(HERE, names[0], HERE, names[1], SWAP) == 0:
        return
    if hasattr(library, "renamex_np") and library.renamex_np(*names, SWAP) == 0:
        return
    aside = _aside(old)
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
