"""What a mutant is; tests/mutants.py runs them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One way to be wrong, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
