"""Compiled code on disk: checked before it is loaded, and never in the way."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.backends.cpu.runtime import compiler

SOURCE = """
from stridekit.backends.cpu.runtime.compiler import kernel

@kernel
def triple(value):
    return 3 * value
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRIDEKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fresh_module(source: str = SOURCE) -> ModuleType:
    """Make a module with one kernel anew, as a new process would."""
    module = ModuleType("tripling")
    exec(compile(source, "<source>", "exec"), module.__dict__)
    return module


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List what is compiled, rather than loaded."""
    names: list[str] = []
    compile_code = compiler._compile

    def noted(function: Callable[..., Any], name: str, signature: Any) -> Any:
        names.append(name)
        return compile_code(function, name, signature)

    monkeypatch.setattr(compiler, "_compile", noted)
    return names


def test_a_second_process_loads_what_the_first_compiled(cache: Path, compiled: list[str]) -> None:
    for _ in range(2):
        assert fresh_module().triple(5) == 15
        assert compiled == ["tripling.triple"]


def test_any_damage_to_a_file_is_noticed_and_only_costs_time(cache: Path, compiled: list[str]) -> None:
    fresh_module().triple(5)
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    assert len(files) == 1
    assert files[0].stat().st_mode & 0o777 == 0o600
    rng = random.Random(7)
    for path in files:
        whole = path.read_bytes()
        places = [0, len(whole) // 2, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(20))]
        damaged = [whole[:p] + bytes([whole[p] ^ 1 << rng.randrange(8)]) + whole[p + 1 :] for p in places]
        for content in [*damaged, b"", whole[:-1], whole[:100], whole + b"\0", rng.randbytes(500)]:
            path.write_bytes(content)
            compiled.clear()
            assert fresh_module().triple(5) == 15
            assert len(compiled) == 1
            assert fresh_module().triple(5) == 15
            assert len(compiled) == 1, "the damaged file was not replaced"


def test_a_cache_that_cannot_be_written_only_costs_time(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert fresh_module().triple(5) == 15


def test_a_full_disk_only_costs_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert fresh_module().triple(5) == 15
    assert list(cache.iterdir()) == []


def test_entries_are_kept_on_disk_too(cache: Path) -> None:
    program = (
        "from stridekit.backends.cpu.runtime import compiler, mailboxes\n"
        "import numpy as np\n"
        "compiled, compile_code = [], compiler._compile\n"
        "compiler._compile = lambda *args: (compiled.append(args[1]), compile_code(*args))[1]\n"
        "def run(job, worker):\n"
        "    mailboxes._store(job, worker + 7)\n"
        "address = compiler.entry(run, 'seven')\n"
        "job = np.zeros(1, np.int64)\n"
        "mailboxes.call(address, job.ctypes.data, 1)\n"
        "print(job[0], *compiled)\n"
    )
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.split())
    assert outputs == [["8", "seven", "mailboxes.call"], ["8"]]


def test_functions_of_one_name_do_not_take_each_others_place(cache: Path, compiled: list[str]) -> None:
    """Two sources under one name stand for two versions of a module that share a folder."""
    for _ in range(2):
        assert fresh_module().triple(5) == 15
        assert fresh_module(SOURCE.replace("3 *", "4 *")).triple(5) == 20
        assert fresh_module(SOURCE.replace("3 *", "3 +")).triple(5) == 8
        assert len(compiled) == 3


def test_a_file_under_anothers_name_is_not_taken_for_it(cache: Path, compiled: list[str]) -> None:
    for source, value in ((SOURCE, 15), (SOURCE.replace("3 *", "4 *"), 20)):
        assert fresh_module(source).triple(5) == value
    first, second = sorted(cache.iterdir())
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    assert fresh_module().triple(5) == 15
    assert len(compiled) == 3


def test_a_user_without_a_home_computes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("STRIDEKIT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert compiler.cache_dir().is_dir()
    assert compiler.cache_dir() == compiler.cache_dir()


def test_no_layer_shape_compiles_anything_anew() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 17, 19), np.float32)
    sk.conv2d(x, rng.standard_normal((8, 6, 3, 3), np.float32), backend="cpu")
    compiled = compiler.compiled_entries()
    for groups, filters, stride in [(1, 5, 1), (6, 12, 2), (3, 9, (2, 1)), (1, 70, 5), (6, 6, 1)]:
        weight = rng.standard_normal((filters, 6 // groups, 2, 3), np.float32)
        for activation in (None, "gelu", ("leaky_relu", 0.1)):
            sk.conv2d(x, weight, stride=stride, groups=groups, padding="same", activation=activation, backend="cpu")
        sk.conv2d(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), weight, groups=groups, layout="NHWC", backend="cpu")
    signal = rng.standard_normal((1, 6, 40), np.float32)
    sk.conv1d(signal, rng.standard_normal((4, 6, 5), np.float32), stride=3, backend="cpu")
    volume = rng.standard_normal((1, 6, 5, 6, 7), np.float32)
    sk.conv3d(volume, rng.standard_normal((4, 6, 3, 2, 1), np.float32), backend="cpu")
    assert compiler.compiled_entries() == compiled


def test_a_read_only_home_and_cache_only_cost_time(tmp_path: Path) -> None:
    nowhere = tmp_path / "home"
    nowhere.mkdir()
    nowhere.chmod(0o555)
    program = (
        "import numpy as np\n"
        "from stridekit.backends.cpu.runtime.compiler import kernel\n"
        "exec(compile('def triple(v):\\n    return 3 * v', '<text>', 'exec'))\n"
        "triple.__module__ = 'm'\n"
        "print(kernel(triple)(5))\n"
    )
    environment = {"HOME": str(nowhere), "PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": "/proc/nowhere"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("15\n", 0), done.stderr


EVERY_ENTRY = """
import numpy as np, stridekit as sk
from stridekit.backends.cpu.runtime import compiler

compiled = []
compile_code = compiler._compile
compiler._compile = lambda *args: (compiled.append(args[1]), compile_code(*args))[1]
x, w = np.ones((1, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32)
y = sk.conv2d(x, w, stride=2)
sk.conv_input_grad(x.shape, w, y, stride=2)
sk.conv_weight_grad(x, w.shape, y, stride=2)
large = np.ones((1, 8, 200, 200), np.float32)
sk.conv_weight_grad(large, w.shape, np.ones((1, 8, 198, 198), np.float32))
sk.max_pool_grad(x, sk.max_pool2d(x, 2), 2)
print(compiled)
"""


def test_a_second_process_compiles_nothing_in_any_direction() -> None:
    """What compiled code closes over must look the same in every process: it is part of the cache's key."""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", EVERY_ENTRY], capture_output=True, text=True, timeout=240, check=True
        )
    assert done.stdout == "[]\n"
