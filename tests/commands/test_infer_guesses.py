"""infer.py --lookup and --draft: the same text as without them."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from xlab import checkpoints
from xlab.commands.infer import main

RUN = "logs/version_0"


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("there")
class TestGuesses:
    @pytest.mark.parametrize("how", [("-g",), ("-s", 2), ("-s", 2, "-T", 2, "--min-tokens", 5)])
    def test_the_text_is_the_same(self, how: tuple[object, ...]) -> None:
        plain = infer(RUN, "Document", *how, "-l", 12)
        assert plain.exit_code == 0, plain.stderr
        for guesses in (("--lookup", 3), ("--draft", RUN), ("--draft", RUN, "--draft-tokens", 2)):
            guessed = infer(RUN, "Document", *how, "-l", 12, *guesses)
            assert guessed.stdout == plain.stdout

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--lookup", 3, "--draft", RUN], "--lookup and --draft are two ways to guess"),
            (["--draft-tokens", 3], "add --draft CHECKPOINT"),
            (["--lookup", 0], "--lookup must be at least 1, got 0"),
            (["--draft", RUN, "--draft-tokens", -1], "--draft-tokens must be at least 1, got -1"),
            (["--lookup", 3, "-b"], "--lookup follows one text at a time; leave -b out"),
            (["--draft", RUN, "-n", 2], "--draft follows one text at a time; leave -n out"),
            (["--draft", "nowhere"], "nowhere"),
        ],
    )
    def test_what_cannot_be_is_refused_in_one_line(self, arguments: list[object], says: str) -> None:
        result = infer(RUN, "Document", *arguments)
        assert result.exit_code == 2
        assert says in result.stderr
        assert result.stderr.count("\n") == 1

    def test_a_draft_of_another_tokenizer_is_refused(self, tmp_path: Path) -> None:
        exported, _ = checkpoints.export(RUN, tmp_path)
        content = torch.load(exported, weights_only=True)
        tokenizer = json.loads(content["xlab"]["tokenizer"])
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        content["xlab"]["tokenizer"] = json.dumps(tokenizer)
        torch.save(content, tmp_path / "other.pt")
        result = infer(RUN, "Document", "--draft", tmp_path / "other.pt")
        assert result.exit_code == 2
        assert "has another tokenizer than the model" in result.stderr
