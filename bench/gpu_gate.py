"""All that only a GPU can show, by one command: ``python -m bench.gpu_gate --out bench/results``.

Run from the root of a checkout on a machine with CUDA, under 8 minutes. Every stage runs in a process of its own within
a time of its own, whatever became of the others; the JSON, named after the card, is written after each.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.records import RESULTS, result_path, text_table, write_json
from stridekit.backends import load_backend, unavailable

ROOT = Path(__file__).parents[1]
STAGES = {
    "probe": (30, "primitives of device.cuh, card beside emulator"),
    "compile": (40, "every kernel, for this card"),
    "tests": (155, "pytest -m gpu"),
    "sanitizer": (80, "memcheck and racecheck over one case of each family"),
    "peers": (115, "cuDNN, over the suite"),
    "memory": (25, "predicted beside CuPy's pool"),
    "start": (30, "compiled, and from the cache"),
}
"""Seconds each may take, and what it is; together less than 8 minutes."""
_TAIL = 4000


@dataclass
class Outcome:
    """What became of a stage: ``"passed"``, ``"failed"`` or, where that is no failure, ``"not found"``."""

    verdict: str
    note: str
    seconds: float = 0.0
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """A command that ended by itself or, at its limit, by us: `status` is None then."""

    status: int | None
    output: str

    @property
    def tail(self) -> str:
        """The end of what it printed."""
        return self.output[-_TAIL:]


def main(arguments: list[str] | None = None) -> int:
    """Run the stages; return 1 if one failed, 2 where there is no CUDA."""
    options = parser().parse_args(arguments)
    reason = unavailable("cuda")
    if reason:
        print(f"The gate needs a CUDA device, and there is none that works: {reason}", file=sys.stderr)
        print(f"Then, from {ROOT}: python -m bench.gpu_gate --out {options.out}", file=sys.stderr)
        return 2
    device = load_backend("cuda").device()
    path = result_path(options.out, "gpu_gate", device.model)
    result: dict[str, Any] = {"card": device.description, "versions": load_backend("cuda").versions(), "stages": {}}
    for stage in options.stages:
        print(f"\n== {stage}: {STAGES[stage][1]}", flush=True)
        begin = time.monotonic()
        try:
            outcome = RUNNERS[stage](options)
        except Exception as error:
            outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        outcome.seconds = round(time.monotonic() - begin, 1)
        result["stages"][stage] = asdict(outcome)
        write_json(path, result)
    print(f"\n{device.description}\n{table(result['stages'])}\nwritten to {path}")
    return int(any(stage["verdict"] == "failed" for stage in result["stages"].values()))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="python -m bench.gpu_gate", description=__doc__)
    found.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="default: bench/results")
    found.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES), metavar="STAGE",
                       help=f"some of {', '.join(STAGES)}; default: all")  # fmt: skip
    found.add_argument("--layers", nargs="*", default=[], metavar="NAME", help="of the stage peers: shell patterns")
    found.add_argument("--quick", action="store_true", help="of the stage peers: a few layers of each kind")
    found.add_argument("--peers-seconds", type=int, default=STAGES["peers"][0], metavar="N",
                       help="how long the stage peers may take (default: %(default)s)")  # fmt: skip
    return found


def table(stages: dict[str, dict[str, Any]]) -> str:
    """Return one line a stage."""
    rows = [(name, each["verdict"], f"{each['seconds']:.0f} s", each["note"]) for name, each in stages.items()]
    return text_table(("stage", "verdict", "time", "found"), rows, left=4)


def run(command: list[str], seconds: float, *, quiet: bool = False) -> Ran:
    """Run a command for at most so long, with all that it starts; what it prints is shown and kept."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            status: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            # Its own group, of which it is the leader: what it has started ends with it.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        ran = Ran(status, output.read())
    if not quiet:
        print(ran.tail.strip(), flush=True)
    return ran


def script(stage: str, arguments: list[str], seconds: float | None = None) -> Outcome:
    """Run a script of this folder; it tells by its status whether it passed, and by JSON what it found."""
    limit = seconds or STAGES[stage][0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        ran = run([sys.executable, "-m", *arguments, "--json", str(path)], limit)
        detail = json.loads(path.read_text()) if path.is_file() else {}
    note = str(detail.get("note") or _last_line(ran.output))
    if ran.status is None:
        return Outcome("failed", f"ended after {limit:.0f} s: {note}", detail={**detail, "output": ran.tail})
    if ran.status:
        return Outcome("failed", note, detail={**detail, "status": ran.status, "output": ran.tail})
    return Outcome("passed", note, detail=detail)


def peers(options: argparse.Namespace) -> Outcome:
    """Race with cuDNN; ends by itself a little before it would be ended."""
    command = ["bench.cuda_peers", "--seconds", str(max(5, options.peers_seconds - 30))]
    command += [*(["--layers", *options.layers] if options.layers else []), *(["--quick"] if options.quick else [])]
    return script("peers", command, options.peers_seconds)


def tests(_: argparse.Namespace) -> Outcome:
    """Run the tests marked gpu; the files without any may need packages that are not here."""
    files = [str(path.relative_to(ROOT)) for path in gpu_test_files()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider", *files]
    ran = run(command, STAGES["tests"][0], quiet=True)
    counts = counted(ran.output)
    print(_summary(ran.output), flush=True)
    note = ", ".join(f"{count} {what}" for what, count in counts.items())
    detail = {"counts": counts, "status": ran.status, "output": ran.tail}
    if ran.status is None:
        return Outcome("failed", f"ended after {STAGES['tests'][0]} s: {note}", detail=detail)
    passed = ran.status == 0 and counts["passed"] and not counts["failed"] + counts["error"]
    return Outcome("passed" if passed else "failed", note, detail=detail)


def gpu_test_files() -> list[Path]:
    """Return the files that hold tests marked gpu."""
    return [path for path in sorted((ROOT / "tests").glob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]


def counted(output: str) -> dict[str, int]:
    """Count the outcomes in what ``pytest -v`` printed, however far it came."""
    outcomes = re.findall(r"^\S.*? (PASSED|FAILED|SKIPPED|ERROR|XPASS|XFAIL)\b.*\[ *\d+%\]$", output, re.MULTILINE)
    unread = len(re.findall(r"^ERROR collecting|^_+ ERROR collecting", output, re.MULTILINE))
    found = {word: outcomes.count(word.upper()) for word in ("passed", "failed", "skipped", "error")}
    return {**found, "error": found["error"] + unread}


def _summary(output: str) -> str:
    """Return pytest's own summary, or the last lines of a run that was ended before it."""
    _, found, summary = output.rpartition("short test summary info")
    return (summary[-_TAIL:] if found else "\n".join(output.splitlines()[-5:])).strip(" =\n")


def sanitizer(_: argparse.Namespace) -> Outcome:
    """Watch memory and races while small cases run."""
    found = find_sanitizer()
    if found is None:
        return Outcome("not found", "compute-sanitizer is CUDA's toolkit's, or: pip install nvidia-cuda-sanitizer-api")
    notes, detail, failed = [], {}, False
    for tool, chosen in SANITIZERS.items():
        command = [found, "--tool", tool, *chosen, "--error-exitcode", "9", "--print-limit", "20"]
        ran = run([*command, sys.executable, "-m", "bench.gpu_cases"], STAGES["sanitizer"][0] / len(SANITIZERS))
        note, clean = judged(ran)
        notes.append(f"{tool}: {note}")
        detail[tool] = {"status": ran.status, "output": ran.tail}
        failed |= not clean
    return Outcome("failed" if failed else "passed", "; ".join(notes), detail=detail)


# CuPy asks the driver for attributes that it may not know; what the API then says is no error of a kernel.
SANITIZERS: dict[str, list[str]] = {"memcheck": ["--report-api-errors", "no"], "racecheck": []}


def judged(ran: Ran) -> tuple[str, bool]:
    """Return what a sanitizer summed up, and whether it found nothing in a run that came to its end."""
    said = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", ran.output)
    if ran.status is None:
        return "ended before it was done", False
    if not said:
        return _last_line(ran.output), False
    return said[-1], ran.status == 0 and re.match(r"0 (errors|hazards)\b", said[-1]) is not None


def find_sanitizer() -> str | None:
    """Find compute-sanitizer: on the path, in the toolkit's folder, or in a wheel."""
    found = shutil.which("compute-sanitizer")
    if found:
        return found
    places = sorted(Path("/usr/local").glob("cuda*/bin/compute-sanitizer"), reverse=True)
    for distribution in importlib.metadata.distributions():
        if (distribution.metadata["Name"] or "").startswith("nvidia-cuda-sanitizer"):
            files = [file for file in distribution.files or [] if file.name == "compute-sanitizer"]
            places += [Path(str(distribution.locate_file(file))) for file in files]
    return next((str(place) for place in places if os.access(place, os.X_OK)), None)


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"


RUNNERS: dict[str, Callable[[argparse.Namespace], Outcome]] = {
    "probe": lambda _: script("probe", ["bench.gpu_probe"]),
    "compile": lambda _: script("compile", ["bench.gpu_start", "--compile-all"]),
    "tests": tests,
    "sanitizer": sanitizer,
    "peers": peers,
    "memory": lambda _: script("memory", ["bench.gpu_memory"]),
    "start": lambda _: script("start", ["bench.gpu_start"]),
}


if __name__ == "__main__":
    sys.exit(main())
