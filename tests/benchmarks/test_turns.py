"""Processes that take turns: the order, what reaches the parent, and how a failure is told."""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.turns import Player, PlayerError, take_turns

ROOT = Path(__file__).parents[2]

SCRIBE = """
import sys
from benchmarks.turns import serve

def prepare():
    print("a library that talks on stdout")
    def work():
        with open(sys.argv[2], "a") as diary:
            print(sys.argv[1], file=diary)
        print("and again")
        return {"by": sys.argv[1]}
    return {"ready": sys.argv[1]}, work

serve(prepare)
"""


def player(program: str, *arguments: str) -> Player:
    return Player([sys.executable, "-c", program, *arguments], cwd=ROOT, env={})


def test_each_works_once_a_round_in_the_given_order(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    with ExitStack() as stack:
        players = {name: player(SCRIBE, name, str(diary)) for name in "ABC"}
        for name, scribe in players.items():
            stack.callback(scribe.close)
            assert scribe.answer() == {"ready": name}
        answers = list(take_turns(players, 2))
    assert answers == [(number, name, {"by": name}) for number in range(2) for name in "ABC"]
    assert diary.read_text().split() == list("ABCABC")


def test_a_module_that_is_not_there_is_an_answer() -> None:
    absent = player("from benchmarks.turns import serve\ndef prepare():\n    import nowhere_at_all\nserve(prepare)")
    assert absent.answer() == {"missing": "No module named 'nowhere_at_all'"}
    absent.close()


def test_a_player_that_breaks_says_its_last_words() -> None:
    broken = player("print('first', flush=True); raise SystemExit('out of luck')")
    with pytest.raises(ValueError, match="Expecting value"):  # a line that is no answer is not taken for one
        broken.answer()
    with pytest.raises(PlayerError, match="exit status 1: out of luck"):
        broken.answer()
    broken.close()


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(PlayerError, match="/no/such/python: No such file"):
        Player(["/no/such/python"], cwd=ROOT, env={})
