"""Compiled code runs only if nobody else can have put it there; what is kept on disk is never unpickled."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from stridekit.backends.cuda import compiling as cuda_compiling
from stridekit.backends.cuda.catalog import all_kernels
from stridekit.cli.commands import app
from stridekit.memory import disk_cache
from tests.test_cpu_cache import SOURCE, fresh_module

OWNERS = hasattr(os, "geteuid")
pytestmark = pytest.mark.skipif(not OWNERS, reason="files have no owners on this system")
ROOT = pytest.mark.skipif(not OWNERS or os.geteuid() != 0, reason="only root can give a file to another user")
NOBODY = 65534
OWN, STRANGE = 15, 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder in which a stranger's code lies in the place of `SOURCE`: it gives 20 for 15."""
    folder = tmp_path / "parent" / "cache"
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", str(folder))
    monkeypatch.setattr(disk_cache, "_told", set())
    fresh_module(SOURCE.replace("3 *", "4 *")).triple(5)
    path = code_in(folder)
    strange = disk_cache.unsealed(path.read_bytes())
    path.unlink()
    fresh_module().triple(5)
    path = code_in(folder)
    own = disk_cache.unsealed(path.read_bytes())
    assert own is not None
    assert strange is not None
    path.write_bytes(disk_cache.sealed(own.partition(b"\n")[0] + b"\n" + strange.partition(b"\n")[2]))
    yield folder
    for path in (folder.parent, folder):
        if path.is_dir():
            path.chmod(0o700)


def code_in(folder: Path) -> Path:
    (path,) = folder.glob("*.code")
    return path


def computed() -> int:
    value: int = fresh_module().triple(5)
    return value


def give(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def replaced_by_link(path: Path) -> Path:
    """Move a file or folder aside, and put a link in its place; return where it lies."""
    aside = path.rename(path.with_name("aside"))
    path.symlink_to(aside)
    return aside


def test_what_only_the_user_can_have_written_is_run(cache: Path) -> None:
    assert computed() == STRANGE, "the cases below would show nothing"


MODES: dict[str, tuple[Callable[[Path], Path], int]] = {
    "a folder of all": (lambda folder: folder, 0o777),
    "a sticky folder of all": (lambda folder: folder, 0o1777),
    "a group's folder": (lambda folder: folder, 0o770),
    "a file of all": (code_in, 0o666),
    "a group's file": (code_in, 0o620),
}


@pytest.mark.parametrize("case", MODES)
def test_what_others_can_write_to_is_not_run_and_the_user_is_told_once(cache: Path, case: str) -> None:
    found, mode = MODES[case]
    path = found(cache)
    path.chmod(mode)
    listed = CliRunner().invoke(app, ["info"]).stdout
    said = rf"others can write to {re.escape(str(path))} \(mode {mode:04o}\); remove it, or set STRIDEKIT_CACHE_DIR"
    assert re.search(f"{re.escape(str(cache))}, not used: {said}", listed)
    with pytest.warns(RuntimeWarning, match=f"runs no compiled code that others could have put there: {said}"):
        assert computed() == OWN
    assert computed() == OWN
    if path != cache:
        assert code_in(cache).stat().st_mode & 0o777 == 0o600, "the file was replaced by the user's own"
        assert ", not used" not in CliRunner().invoke(app, ["info"]).stdout


def give_folder_behind_link(folder: Path) -> None:
    give(replaced_by_link(folder))


def give_link(folder: Path) -> None:
    replaced_by_link(folder)
    give(folder)


def give_link_above(folder: Path) -> None:
    replaced_by_link(folder.parent)
    give(folder.parent)


GIVEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "the folder": (give, "cache is user 65534's, and this process is user 0's"),
    "a file": (lambda folder: give(code_in(folder)), "code is user 65534's, and this process is user 0's"),
    "a folder behind a link": (give_folder_behind_link, "cache is user 65534's"),
    "a link to the user's own": (give_link, "cache is a link of user 65534's"),
    "a link above": (give_link_above, "parent is a link of user 65534's"),
    "the folder above": (lambda folder: give(folder.parent), "others can replace what lies in .*parent .user 65534"),
}


@ROOT
@pytest.mark.parametrize("case", GIVEN)
def test_what_is_anothers_is_not_run(cache: Path, case: str) -> None:
    change, said = GIVEN[case]
    change(cache)
    with pytest.warns(RuntimeWarning, match=said):
        assert computed() == OWN


@ROOT
@pytest.mark.parametrize(("mode", "value"), [(0o777, OWN), (0o775, OWN), (0o1777, STRANGE), (0o755, STRANGE)])
def test_a_folder_of_roots_above_counts_if_others_can_replace_what_lies_in_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, mode: int, value: int
) -> None:
    give(cache)
    give(code_in(cache))
    cache.parent.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert computed() == value
    assert len(told) == (value == OWN)


def test_the_users_own_links_and_ways_around_are_followed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache.parent / "link").symlink_to("cache")
    (cache.parent / "round").symlink_to(cache.parent / "link" / ".." / "link")
    for way in ("link", "round", "cache/../link/../round"):
        monkeypatch.setenv("STRIDEKIT_CACHE_DIR", f"{cache.parent}/{way}")
        assert computed() == STRANGE
    monkeypatch.chdir(cache.parent)
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", "round")
    assert computed() == STRANGE
    (cache.parent / "ring").symlink_to("ring")
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", "ring")
    assert computed() == OWN


def test_a_link_in_the_place_of_a_file_is_not_followed(cache: Path) -> None:
    code = code_in(cache)
    replaced_by_link(code)
    assert computed() == OWN
    assert not code.is_symlink()


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(cache: Path) -> None:
    code = code_in(cache)
    code.unlink()
    os.mkfifo(code)
    values: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        caller = Thread(target=lambda: values.append(computed()), daemon=True)
        caller.start()
        caller.join(60)
    assert values == [OWN]
    assert code.is_file()


def test_where_warnings_are_errors_the_second_call_computes(cache: Path) -> None:
    cache.chmod(0o777)
    with pytest.raises(RuntimeWarning, match="others can write"):
        computed()
    assert computed() == OWN


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


WRAPPINGS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "bare": lambda whole, hostile: hostile,
    "under its hash": lambda whole, hostile: disk_cache.sealed(hostile),
    "under another key": lambda whole, hostile: disk_cache.sealed(b"key\n" + hostile),
    "appended": lambda whole, hostile: disk_cache.sealed(whole[32:] + hostile),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_nothing_is_unpickled(cache: Path, tmp_path: Path, wrapping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = pickle.dumps(Hostile(tmp_path / "mark"))
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_: pytest.fail("unpickled"))
    code = code_in(cache)
    code.write_bytes(WRAPPINGS[wrapping](code.read_bytes(), hostile))
    # Machine code ends where it says: what follows it is not looked at.
    assert computed() == (STRANGE if wrapping == "appended" else OWN)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_folders_and_files_are_made_for_the_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.delenv("STRIDEKIT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(umask)
    try:
        assert computed() == OWN
    finally:
        os.umask(before)
    made = list(tmp_path.rglob("*"))
    assert {path.name for path in made if path.is_dir()} <= {".cache", "stridekit"}
    assert all(path.stat().st_mode & 0o777 in (0, 0o600, 0o700) for path in made)
    assert len(made) == 3 or umask == 0o777


def test_what_can_only_be_read_is_read(cache: Path) -> None:
    code_in(cache).chmod(0o400)
    cache.chmod(0o500)
    assert computed() == STRANGE


def test_without_owners_the_folder_is_used_as_it_is(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "_OWNERS", False)
    cache.chmod(0o777)
    assert disk_cache.cache_fault() == ""
    assert computed() == STRANGE
    code_in(cache).write_bytes(b"damaged")
    assert (computed(), computed()) == (OWN, OWN)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("case", ["folder", "code", "hash"])
def test_a_strangers_code_for_a_device_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache, "_told", set())
    monkeypatch.setattr(cuda_compiling, "version", lambda: (13, 0))
    given = [b"strange"]
    monkeypatch.setattr(cuda_compiling, "compile_kernel", lambda *_: cuda_compiling.Compiled(given[0], ""))
    kernel = all_kernels()[0]
    path = cuda_compiling.cubin_path(kernel, "90a")
    given[0] = b"own"
    assert cuda_compiling.cubin_path(kernel, "90a").read_bytes() == b"strange", "the cases below would show nothing"
    changed = {"folder": path.parent, "code": path, "hash": path.with_suffix(".sha256")}[case]
    changed.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="others can write"):
        again = cuda_compiling.cubin_path(kernel, "90a")
    assert again.read_bytes() == b"own"
    assert (again == path) == (case != "folder")


FOLDER_OF_A_CHILD = """
import os
from stridekit.memory.disk_cache import private_folder
folder = private_folder()
child = os.fork()
if child:
    os.waitpid(child, 0)
    print(folder.is_dir())
"""


def test_a_child_that_ends_leaves_its_parents_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FOLDER_OF_A_CHILD], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr
    assert not list(tmp_path.iterdir()), "who made a folder removes it"
