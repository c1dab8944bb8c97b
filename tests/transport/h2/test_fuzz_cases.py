"""Lives of a connection that broke a rule once, or show much; and some that nobody has seen yet."""

import os
from pathlib import Path
from random import Random, SystemRandom

import pytest

from ratelimitd.transport.h2 import frames
from tests.transport.h2.fuzz.case import Case, Kind, Step, from_bytes, to_bytes
from tests.transport.h2.fuzz.corpus import CORPUS, MAX_BYTES, read_corpus
from tests.transport.h2.fuzz.play import play
from tests.transport.h2.fuzz.search import Found, Search, shrink
from tests.transport.h2.fuzz.sessions import captured, generated

# About a minute on a machine of CI's; a glance elsewhere. `make fuzz` takes ten minutes.
FRESH_CASES = 45_000 if os.environ.get("CI") else 500
FRESH_TIMEOUT_S = 600


@pytest.mark.parametrize("name", read_corpus())
def test_kept_case_breaks_no_rule(name: str) -> None:
    play(from_bytes((CORPUS / name).read_bytes()))


def test_corpus_is_small() -> None:
    assert 0 < sum(file.stat().st_size for file in CORPUS.iterdir()) <= MAX_BYTES * 1.1


@pytest.mark.timeout(FRESH_TIMEOUT_S)
def test_fresh_cases_break_no_rule(tmp_path: Path) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or SystemRandom().randrange(2**32))
    search = Search(Random(seed))
    try:
        search.add_known(read_corpus().values())
        for _ in range(FRESH_CASES):
            search.step()
    except Found as found:
        file = tmp_path / "found.case"
        file.write_bytes(to_bytes(found.case))
        pytest.fail(f"FUZZ_SEED={seed}, case {search.played}: {found}\nkept: {file}")


def test_one_seed_gives_one_sequence_of_cases() -> None:
    searches = [Search(Random(5)) for _ in range(2)]
    for search in searches:
        for _ in range(100):
            search.step()

    assert searches[0].cases == searches[1].cases
    assert searches[0].features == searches[1].features


def test_case_comes_back_from_its_file() -> None:
    random = Random(3)
    for _ in range(50):
        case = generated(random)
        assert play(from_bytes(to_bytes(case))) == play(case)


def test_any_bytes_are_a_case() -> None:
    random = Random(4)
    for _ in range(200):
        case = from_bytes(random.randbytes(random.randrange(60)))
        play(case)
        assert from_bytes(to_bytes(case)) == case


def test_captured_sessions_bring_calls() -> None:
    random = Random(6)
    shown = {feature[1] for _ in range(10) for feature in play(captured(random), is_valid=True)}
    assert {"1 calls", "2 calls"} & shown


def test_case_is_made_small_while_it_shows_the_same() -> None:
    # Given a session behind which the peer sends a frame that ends the connection
    session = generated(Random(1))
    wrong = Step(Kind.RECEIVE, data=frames.window_update(0, 0))
    case = Case(0, (*session.steps, wrong, *session.steps))

    def is_told_off(case: Case) -> bool:
        return any(feature[1] == "WINDOW_UPDATE of zero" for feature in play(case))

    # When it is made small
    assert is_told_off(case)
    small = shrink(case, is_told_off)

    # Then nothing is left but a greeting and that frame
    sent = b"".join(step.data for step in small.steps)
    assert sent == frames.PREFACE + frames.settings({}) + wrong.data


def test_answer_without_calls_is_dropped() -> None:
    play(Case(0, (Step(Kind.ANSWER, 1, 5), Step(Kind.FAIL, 1, 5), Step(Kind.LOSE))))
