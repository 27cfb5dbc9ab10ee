"""The planting of mistakes: one line each, the same for the same seed, and nothing that only words would show."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from tests.mutants import EQUIVALENT, NEAREST, ROOT, drawn, mutants_of

TEXT = '''
def size(width: int = 7, kernel: int | None = None) -> int:
    """The 3 words of a docstring."""
    if width < 1 or not kernel:
        raise ValueError(f"{width + 1} is less than 1")
    return max((width - kernel) // 2, later(width, kernel)) + sum(range(kernel))
'''


def test_every_kind_of_mistake_is_made_and_none_in_words_or_types() -> None:
    after = {mutant.after.strip() for mutant in mutants_of("size.py", TEXT)}
    assert after == {
        "def size(width: int = 8, kernel: int | None = None) -> int:",
        "if width <= 1 or not kernel:",
        "if width < 2 or not kernel:",
        "if width < 1 and not kernel:",
        "if width < 1 or (kernel):",
        "if not (width < 1 or not kernel):",
        *(
            f"return {inside}"
            for inside in (
                "max((width - kernel) // 2, later(width, kernel)) - sum(range(kernel))",
                "max((width - kernel) // 2, later(width, kernel))",
                "min((width - kernel) // 2, later(width, kernel)) + sum(range(kernel))",
                "max((width - kernel) % 2, later(width, kernel)) + sum(range(kernel))",
                "max((width + kernel) // 2, later(width, kernel)) + sum(range(kernel))",
                "max((width) // 2, later(width, kernel)) + sum(range(kernel))",
                "max((width - kernel) // 3, later(width, kernel)) + sum(range(kernel))",
                "max((width - kernel) // 2, later(kernel, width)) + sum(range(kernel))",
                "max((width - kernel) // 2, later(width, kernel)) + sum(range((kernel) - 1))",
            )
        ),
    }


def test_a_seed_draws_the_same_from_every_file_in_turn_wherever_its_lines_stand() -> None:
    first = drawn(2 * len(NEAREST), seed=3)
    assert first == drawn(2 * len(NEAREST), seed=3)
    assert first != drawn(2 * len(NEAREST), seed=4)
    assert [mutant.file for mutant in first] == 2 * [*NEAREST]
    for mutant in first[:2]:
        assert replace(mutant, line=mutant.line + 9).rank(3) == mutant.rank(3)


def test_a_mutant_differs_in_one_line_and_parses() -> None:
    for mutant in drawn(20, seed=1):
        text = (ROOT / mutant.file).read_text()
        planted = mutant.planted(text)
        ast.parse(planted)
        pairs = zip(text.splitlines(), planted.splitlines(), strict=True)
        assert [number for number, (a, b) in enumerate(pairs, 1) if a != b] == [mutant.line]
        with pytest.raises(ValueError, match="has changed"):
            mutant.planted("\n" + text)


def test_what_is_said_to_change_nothing_is_still_a_mutant_and_is_not_drawn() -> None:
    for inside, after in EQUIVALENT:
        file = next(name for name in NEAREST if name.endswith(inside))
        assert after in {mutant.after.strip() for mutant in mutants_of(file, (ROOT / file).read_text())}
    assert not any(mutant.equivalent for mutant in drawn(10**9, seed=0))
