"""infer.py: the options, what contradicts what, and that the same seed writes the same text."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xlab import checkpoints
from xlab.commands.infer import main

RUN = "logs/version_0"


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(*arguments: object) -> str:
    result = infer(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.usefixtures("there")
class TestInfer:
    def test_a_seed_repeats_a_text_and_another_does_not(self) -> None:
        first = written(RUN, "Document", "-s", 1, "-l", 20)
        assert first.startswith("Document")
        assert written(RUN, "Document", "-s", 1, "-l", 20) == first
        assert written(RUN, "Document", "-s", 2, "-l", 20) != first

    def test_a_checkpoint_and_its_export_write_the_same(self) -> None:
        exported, _ = checkpoints.export(RUN, "exports")
        arguments = ("Document", "-s", 3, "-l", 20)
        assert written(exported, *arguments) == written(f"{RUN}/checkpoints/best.ckpt", *arguments)

    def test_runs_are_separate_texts(self) -> None:
        assert len(set(written(RUN, "1", "-n", 3, "-s", 1, "-l", 5, "-T", 2).split("\n1"))) >= 3

    def test_temperature_0_is_greedy_search(self) -> None:
        assert written(RUN, "Document", "-T", 0, "-l", 9) == written(RUN, "Document", "-g", "-l", 9)

    def test_one_beam_is_greedy_search(self) -> None:
        assert written(RUN, "Document", "-b", "-w", 1, "-l", 9) == written(RUN, "Document", "-g", "-l", 9)

    def test_top_k_of_1_draws_the_likeliest(self) -> None:
        assert written(RUN, "Document", "-k", 1, "-l", 9) == written(RUN, "Document", "-g", "-l", 9)

    def test_a_texts_middle_is_continued_without_a_start(self) -> None:
        assert written(RUN, "counts", "-c", "-g", "-l", 3).startswith("counts")

    def test_an_empty_prompt_is_a_text_from_its_start(self) -> None:
        assert written(RUN, "", "-g", "-l", 3)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["-g", "-b"], "-g and -b are two ways"),
            (["-g", "-T", 1], "-g draws nothing, so --temperature has no meaning"),
            (["-b", "-k", 5], "-b draws nothing, so --top-k has no meaning"),
            (["-g", "-s", 5], "-g draws nothing, so --seed has no meaning"),
            (["-w", 3], "--beam-width belongs to beam search; add -b"),
            (["-z", 0.5], "--length-penalty belongs to beam search; add -b"),
            (["-b", "-w", 0], "beam"),
            (["-T", -1], "temperature"),
            (["-k", 0], "top-k|top_k"),
            (["-p", 1.5], "top-p|top_p"),
            (["-n", 0], "-n must be at least 1, got 0"),
            (["-l", -1], "-1"),
            (["-d", "abacus"], "the device 'abacus' is not to be had here"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, arguments: list[object], says: str) -> None:
        result = infer(RUN, "Document", *arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert any(part in result.stderr for part in says.split("|")), result.stderr

    def test_nothing_to_continue(self) -> None:
        assert "an empty prompt has nothing to continue" in infer(RUN, "", "-c").stderr

    def test_no_checkpoint(self, tmp_path: Path) -> None:
        assert infer(tmp_path / "none", "x").exit_code == 2
        (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 broken")
        assert "no checkpoint" in infer(tmp_path / "broken.pt", "x").stderr
