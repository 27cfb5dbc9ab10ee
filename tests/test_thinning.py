"""The short run's choice: every subject once, every two turning values together, and the same in every run."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.thinning import Row, thinned


def product(*sizes: int) -> list[Row]:
    return [*itertools.product(*map(range, sizes))]


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_each_combination_of_the_subjects_and_each_pair_of_what_turns_is_chosen(
    sizes: list[int], data: st.DataObject
) -> None:
    turning = sorted(data.draw(st.sets(st.sampled_from(range(len(sizes))))))
    rows = product(*sizes)
    # Some combinations need not exist at all.
    rows = [row for number, row in enumerate(rows) if (number * 7 + sizes[0]) % 5 or len(rows) < 5]
    chosen = [rows[number] for number in thinned(rows, turning)]
    subjects = [at for at in range(len(sizes)) if at not in turning]
    for places in (subjects, *itertools.combinations(turning, min(2, len(turning)))):
        wanted = {tuple(row[at] for at in places) for row in rows}
        assert {tuple(row[at] for at in places) for row in chosen} == wanted
    assert thinned(rows, turning) == thinned(rows, turning)


@pytest.mark.parametrize(
    ("sizes", "turning", "most"),
    [((150, 4), [1], 150), ((150, 3, 4), [1, 2], 150), ((150, 3, 4), [2], 450), ((5, 4, 2, 7, 3), [0, 1, 2, 3, 4], 42)],
)
def test_a_product_becomes_as_many_as_its_subjects_or_about_as_its_two_longest_turning(
    sizes: tuple[int, ...], turning: list[int], most: int
) -> None:
    assert len(thinned(product(*sizes), turning)) <= most


def test_what_turns_comes_up_evenly() -> None:
    rows = product(150, 3, 4)
    chosen = [rows[number][1:] for number in thinned(rows, [1, 2])]
    counts = [chosen.count(pair) for pair in product(3, 4)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.thorough
def test_the_short_run_and_what_it_leaves_out_are_all_and_the_short_one_asks_every_test_of_a_file() -> None:
    file = Path(__file__).with_name("test_inputs.py")

    def collected(*arguments: str) -> set[str]:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(file), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=file.parents[1])
        return {line for line in done.stdout.splitlines() if "::" in line}

    short, thorough, every = (collected(*m) for m in ((), ("-m", "thorough"), ("-m", "thorough or not thorough")))
    assert short.isdisjoint(thorough)
    assert short | thorough == every
    assert {re.sub(r"\[.*", "", name) for name in short} == {re.sub(r"\[.*", "", name) for name in every}
    one = min(thorough)
    assert collected(one) >= {one}, "named to its last bracket it runs"
