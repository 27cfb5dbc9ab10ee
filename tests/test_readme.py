"""The README: its tables are the recorded results, and its commands are two."""

from __future__ import annotations

import re

from bench.readme import ROOT, with_tables
from stridekit.problems.activations import ACTIVATIONS


def test_the_tables_are_what_the_recorded_results_say() -> None:
    text = (ROOT / "README.md").read_text()
    assert with_tables(text) == text, "run: python -m bench.readme"


def test_every_file_it_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_it_names_the_activations_that_networks_have() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"the activations {', '.join(f'`{name}`' for name in ACTIVATIONS)}." in text


def test_the_quick_start_is_two_commands_of_one_line() -> None:
    text = (ROOT / "README.md").read_text()
    section = text.partition("## Quick start")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert [block.count("\n") for block in blocks] == [1, 1]
    assert "stridekit compare" in blocks[0]
    assert "pytest" in blocks[1]
