"""Train a small network that shrinks its picture by a stride, or by a pooling, through stridekit and through PyTorch.

``python examples/train_strides.py --help``
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from networks import Choice
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tasks import Task, digits, gratings
from training import BATCH, ENGINES, LARGEST_SHIFT, Outcome, train

import stridekit as sk
from stridekit.compare import choose_device
from stridekit.drawing.units import format_bytes, format_share, format_time

FACTORS = (1, 2, 3, 5, 10)
GRATINGS = 1200
POOLINGS = ("max_pool", "avg_pool", "blur_pool")
RESULTS = Path(__file__).parent / "results" / "train_strides.json"
HEADINGS = (
    "shrinks by", "accuracy", "PyTorch", "unmoved", "PyTorch", "epoch", "PyTorch", "kept", "PyTorch", "workspace"
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Train everything, print a table, write the results."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
        sk.set_num_threads(options.threads)
    choices = [Choice("conv", factor) for factor in FACTORS]
    choices += [Choice(by, factor) for factor in options.pooled for by in POOLINGS]
    tasks = [digits(options.samples, options.seed), gratings(options.samples or GRATINGS, options.seed)]
    rows = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        epochs = len(tasks) * len(choices) * options.seeds * options.epochs * len(ENGINES)
        bar = progress.add_task("training", total=epochs)
        for task in tasks:
            for choice in choices:
                progress.update(bar, description=f"{task.name}, {_name(choice)}")
                seeds = range(options.seed, options.seed + options.seeds)
                runs = [
                    train(task, choice, epochs=options.epochs, seed=seed, done=lambda: progress.advance(bar))
                    for seed in seeds
                ]
                rows.append(_row(task, choice, runs))
                if progress.disable:
                    print(f"{task.name}, {_name(choice)}: done", file=sys.stderr)
    results = {"settings": _settings(options, tasks), "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    options.output.with_suffix(".md").write_text(markdown(results))
    _show(results)
    Console().print(f"Wrote {options.output} and {options.output.with_suffix('.md').name}", soft_wrap=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, help="of each training (6; 2 with --quick)")
    parser.add_argument("--seed", type=int, default=0, help="of the first network and of all data (0)")
    parser.add_argument("--seeds", type=int, help="networks of each choice (2; 1 with --quick)")
    parser.add_argument(
        "--samples", type=int, help="pictures of each task, a quarter of which tests (1797 and 1200; 160 with --quick)"
    )
    parser.add_argument("--pooled", type=int, nargs="+", default=[2, 5], help="factors of the poolings (2 5)")
    parser.add_argument("--threads", type=int, help="of both libraries (a thread for each core)")
    parser.add_argument("--quick", action="store_true", help="a minute's look, too short to learn much")
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"JSON file, a table beside it ({RESULTS.name})")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error("--threads wants at least 1")
    defaults = {"epochs": 2, "seeds": 1, "samples": 160} if options.quick else {"epochs": 6, "seeds": 2}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if min(options.epochs, options.seeds, options.seed + 1, *options.pooled) < 1:
        parser.error("--epochs, --seeds and --pooled want at least 1, --seed at least 0")
    if options.samples is not None and options.samples < 40:
        parser.error("--samples wants at least 40")
    return options


def _settings(options: argparse.Namespace, tasks: Sequence[Task]) -> dict[str, Any]:
    return {
        "epochs": options.epochs,
        "seeds": options.seeds,
        "first_seed": options.seed,
        "batch": BATCH,
        "pictures": {task.name: {"train": len(task.train[0]), "test": len(task.test[0])} for task in tasks},
        "device": choose_device("cpu").description,
        "threads": {"stridekit": sk.get_num_threads(), "torch": torch.get_num_threads()},
        "versions": {"stridekit": sk.__version__, "torch": torch.__version__},
        "command": " ".join(["python examples/train_strides.py", *sys.argv[1:]]),
    }


def _row(task: Task, choice: Choice, runs: Sequence[dict[str, Outcome]]) -> dict[str, Any]:
    row: dict[str, Any] = {"task": task.name, "by": choice.by, "factor": choice.factor}
    for engine in ENGINES:
        outcomes = [run[engine] for run in runs]
        row[engine] = {
            "accuracy": statistics.mean(outcome.accuracy for outcome in outcomes),
            "accuracies": [outcome.accuracy for outcome in outcomes],
            "consistency": statistics.mean(outcome.consistency for outcome in outcomes),
            "epoch_s": statistics.median(outcome.epoch_s for outcome in outcomes),
            "last_losses": [outcome.losses[-1] for outcome in outcomes],
            "kept_bytes": outcomes[0].kept_bytes,
            "workspace_bytes": outcomes[0].workspace_bytes,
        }
    return row


def _name(choice: Choice) -> str:
    return f"stride {choice.factor}" if choice.by == "conv" else f"{choice.by} {choice.factor}"


def _cells(row: dict[str, Any]) -> list[str]:
    ours, theirs = (row[engine] for engine in ENGINES)
    cells = [_name(Choice(row["by"], row["factor"]))]
    for what, shown in (
        ("accuracy", format_share),
        ("consistency", format_share),
        ("epoch_s", format_time),
        ("kept_bytes", format_bytes),
    ):
        cells += [shown(ours[what]), shown(theirs[what])]
    return [*cells, format_bytes(ours["workspace_bytes"])]


def markdown(results: dict[str, Any]) -> str:
    """Return the results as one table a task, with what the columns mean below."""
    lines = []
    for task, pictures in results["settings"]["pictures"].items():
        lines += [f"**{task}**, {pictures['train']} pictures to train on and {pictures['test']} to test", ""]
        lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in results["rows"] if row["task"] == task]
        lines.append("")
    return "\n".join([*lines, f"*{_legend(results['settings'])}*", ""])


def _legend(settings: dict[str, Any]) -> str:
    networks, epochs = (f"{settings[name]} {name if settings[name] > 1 else name[:-1]}" for name in ("seeds", "epochs"))
    return (
        f"Means over {networks}, {epochs}. "
        "Columns are stridekit's, PyTorch's beside them; both start from the same weights and see the same batches. "
        f"Unmoved: answers that stay where the picture is shifted by 1 to {LARGEST_SHIFT} pixels. Epoch: median. Kept: "
        "what a step keeps for its backward pass. Workspace: the most that stridekit allocates itself in a step; that "
        "of PyTorch is not counted. max_pool and avg_pool are PyTorch's in both. "
        f"{settings['device']}; PyTorch {settings['versions']['torch']}. `{settings['command']}`"
    )


def _show(results: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for task in results["settings"]["pictures"]:
        table = Table(*HEADINGS, title=task, title_justify="left")
        for row in results["rows"]:
            if row["task"] == task:
                table.add_row(*_cells(row))
        console.print(table)
    console.print(_legend(results["settings"]), markup=False)


if __name__ == "__main__":
    main()
