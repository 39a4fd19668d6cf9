"""infer.py: the options, what contradicts what, and that the same seed writes the same text."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xlab import checkpoints
from xlab.commands.infer import in_options, main
from xlab.inference.detokenizer import whole

RUN = "logs/version_0"


def infer(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(*arguments: object) -> str:
    result = infer(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_settings_are_told_as_options_and_other_words_are_left() -> None:
    assert in_options("min_p and max_new_tokens, truncate=True") == "--min-p and --limit, --truncate"
    assert in_options("prompt_logprobs, top_kk, my_min_p: temperature, stop") == (
        "prompt_logprobs, top_kk, my_min_p: temperature, stop"
    )


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
            (["-g", "-n", 3], "the likeliest tokens make one text, not 3"),
            (["-T", 0, "-n", 3], "the likeliest tokens make one text, not 3"),
            (["-b", "-n", 5], "-n 5 is more than there are beams"),
            (["-b", "--stop", "x"], "--stop has no meaning in a beam search"),
            (["--stop", ""], "--stop is empty"),
            (["-w", 3], "--beam-width belongs to beam search; add -b"),
            (["-z", 0.5], "--length-penalty belongs to beam search; add -b"),
            (["-b", "-w", 0], "--beam-width must be a whole number of at least 1, got 0"),
            (["-b", "-z", "nan"], "--length-penalty must be a moderate number, got nan"),
            (["-b", "--no-repeat-ngram", 2], "--no-repeat-ngram has no meaning in a beam search"),
            (["-T", -1], "temperature must be a finite number of at least 0, got -1.0"),
            (["-T", "nan"], "temperature must be a finite number of at least 0, got nan"),
            (["-k", 0], "--top-k must be a whole number of at least 1, got 0; leave it out to keep every token"),
            (["-p", 1.5], "--top-p must be above 0 and at most 1, got 1.5"),
            (["--min-p", -1], "--min-p must be in [0, 1], got -1.0"),
            (["--typical-p", 0], "--typical-p must be above 0"),
            (["--repetition-penalty", 1e-300], "--repetition-penalty is 1e-300, beyond float32"),
            (["--presence-penalty", "inf"], "--presence-penalty must be from -1e+30 to 1e+30, got inf"),
            (["--frequency-penalty", "nan"], "--frequency-penalty must be from -1e+30 to 1e+30, got nan"),
            (["--no-repeat-ngram", 0], "--no-repeat-ngram must be a whole number of at least 1, got 0"),
            (["--json", "--logprobs", -1], "--logprobs must be a whole number of at least 0, got -1"),
            (["-n", 0], "-n must be at least 1, got 0"),
            (["-n", 10**9], "a cache of 1000000000 texts"),
            (["-l", -1], "--limit must be a whole number of at least 1, got -1"),
            (["-l", 3, "--min-tokens", 4], "--min-tokens is 4, more than --limit, 3"),
            (["--chat", "-b"], "--chat writes turn by turn, so --beam-search"),
            (["--chat", "--json"], "--chat writes turn by turn, so --json"),
            (["--logprobs", 3], "--logprobs belongs to the JSON lines"),
            (["--int8", "--bf16"], "--int8 and --bf16 are two ways"),
            (["-f", "prompts.txt"], "are two sources; give one of them"),
            (["-d", "abacus"], "the device 'abacus' is not to be had here"),
            (["-d", "cpu:5"], "the device 'cpu:5' is not to be had here"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, arguments: list[object], says: str) -> None:
        result = infer(RUN, "Document", *arguments)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert says in result.stderr

    def test_a_json_line_has_ids_logprobs_and_timings(self) -> None:
        line = json.loads(written(RUN, "Document", "--json", "--logprobs", 2, "-l", 4, "-n", 2, "-s", 1))
        tokenizer = checkpoints.load(RUN)[1]
        assert tokenizer.decode(line["prompt_ids"]) == "Document"
        for text in line["texts"]:
            assert text["text"] == whole(tokenizer.decode(text["ids"]))
            assert [entry["id"] for entry in text["logprobs"]] == text["ids"]
            assert all(len(entry["top"]) == 2 for entry in text["logprobs"])
            assert text["score"] == pytest.approx(sum(entry["logprob"] for entry in text["logprobs"]))
        assert 0 <= line["timings"]["first_token_s"] <= line["timings"]["total_s"]
        assert line["cache_bytes"] == 2 * 2 * 17 * 16 * 4  # texts, keys and values, places and one, d, fp32

    def test_a_file_of_prompts_is_answered_in_its_order(self, tmp_path: Path) -> None:
        file = tmp_path / "prompts.txt"
        file.write_text("Document\n\nthe module\r\n")
        together = written(RUN, "-f", file, "-g", "-l", 5)
        assert together == written(RUN, "Document", "-g", "-l", 5) + written(RUN, "the module", "-g", "-l", 5)

    def test_a_prompt_that_is_too_long_leaves_the_others_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "prompts.txt"
        file.write_text("Document " * 500 + "\nDocument\n")
        result = infer(RUN, "-f", file, "-g", "-l", 5)
        assert result.stdout == written(RUN, "Document", "-g", "-l", 5)
        assert "shorten it, or set --truncate to keep its last tokens" in result.stderr
        assert len(result.stderr) < 300  # not the prompt again
        assert result.stderr.endswith("1 of 2 prompts could not be continued\n")
        assert result.exit_code == 2

    def test_nothing_is_printed_of_a_text_that_is_refused(self) -> None:
        assert infer(RUN, "Document", "-l", 0).stdout == ""

    def test_an_interrupted_text_ends_its_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> object:
            raise KeyboardInterrupt

        monkeypatch.setattr("xlab.inference.Engine.step", interrupted)
        result = infer(RUN, "Document")
        assert (result.exit_code, result.stdout) == (130, "Document\n")

    def test_a_chat_that_is_not_utf8(self) -> None:
        result = CliRunner().invoke(main, [RUN, "--chat", "-l", "5"], input=b"a\xff\n")
        assert result.exit_code == 2
        assert "not UTF-8" in result.stderr

    def test_prompts_come_from_standard_input_too(self) -> None:
        result = CliRunner().invoke(main, [RUN, "-f", "-", "-g", "-l", "5"], input="Document\n")
        assert result.stdout == written(RUN, "Document", "-g", "-l", 5)

    def test_a_stop_string_ends_the_text_before_it(self) -> None:
        text = written(RUN, "Document", "-g", "-l", 20)
        stop = text[len("Document") + 3 : len("Document") + 6]
        assert written(RUN, "Document", "-g", "-l", 20, "--stop", stop) == text[: text.index(stop, 8)] + "\n"

    def test_a_text_follows_a_grammar(self, tmp_path: Path) -> None:
        text = written(RUN, "Document ", "--regex", "[0-9]{2}: [a-c]+!", "-l", 30, "-s", 1)
        assert re.fullmatch(r"Document [0-9]{2}: [a-c]+!?\n", text), text
        number = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
        (tmp_path / "schema.json").write_text(json.dumps(number | {"additionalProperties": False}))
        text = written(RUN, "", "--json-schema", tmp_path / "schema.json", "-l", 30, "-s", 1)
        assert json.loads(text)["n"] in (1, 2)
        assert "cannot read the schema" in infer(RUN, "", "--json-schema", tmp_path / "none").stderr
        assert infer(RUN, "", "--regex", "(").exit_code == 2

    @pytest.mark.parametrize("weights", ["--int8", "--bf16"])
    def test_lighter_weights_write_too(self, weights: str) -> None:
        assert written(RUN, "Document", "-g", "-l", 5, weights).startswith("Document")

    def test_a_chat_goes_by_turns_and_takes_back(self) -> None:
        lines = ["Document 1", "", "/undo", "/retry", "/show", "/what", "/quit"]
        result = CliRunner().invoke(main, [RUN, "--chat", "-l", "5", "-s", "1"], input="\n".join(lines) + "\n")
        assert result.exit_code == 0, result.output
        assert "taken back" in result.stdout
        assert "Document 1" in result.stdout.partition("taken back")[2]
        assert "there is no /what" in result.stdout

    def test_a_chat_outlives_the_context(self) -> None:
        result = CliRunner().invoke(main, [RUN, "--chat", "-l", "12", "-s", "1"], input="Document\n\n\n\n\n")
        assert result.exit_code == 0, result.output

    def test_a_prompt_longer_than_the_context_is_refused_or_cut(self) -> None:
        assert "set --truncate to keep" in infer(RUN, "many words " * 40, "-l", 3).stderr
        assert written(RUN, "many words " * 40, "-l", 3, "--truncate")

    def test_a_rolling_text_outgrows_the_context(self) -> None:
        line = json.loads(written(RUN, "Document", "-l", 40, "--min-tokens", 40, "--rolling", "--json", "-s", 1))
        assert len(line["texts"][0]["ids"]) == 40

    def test_a_file_of_prompts_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "latin").write_bytes(b"caf\xe9\n")
        result = CliRunner().invoke(main, [RUN, "-f", "-"], input=b"caf\xe9\n")
        assert "standard input is not UTF-8: byte 0xe9 at 3" in result.stderr
        (tmp_path / "empty").write_text("\n\n")
        assert "is not UTF-8: byte 0xe9 at 3" in infer(RUN, "-f", tmp_path / "latin").stderr
        assert "has no prompts" in infer(RUN, "-f", tmp_path / "empty").stderr
        assert "cannot read the prompts" in infer(RUN, "-f", tmp_path / "none").stderr

    def test_a_files_mark_of_its_encoding_is_no_part_of_its_prompts(self, tmp_path: Path) -> None:
        (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfDocument\n")
        marked = CliRunner().invoke(main, [RUN, "-f", "-", "-g", "-l", "5"], input=b"\xef\xbb\xbfDocument\n").stdout
        assert (
            marked == written(RUN, "-f", tmp_path / "marked", "-g", "-l", 5) == written(RUN, "Document", "-g", "-l", 5)
        )

    def test_a_refused_prompt_is_told_in_options_in_json_too(self, tmp_path: Path) -> None:
        (tmp_path / "prompts").write_text("Document\n" + "many words " * 40)
        result = infer(RUN, "-f", tmp_path / "prompts", "--json", "-l", 3)
        fine, refused = map(json.loads, result.stdout.splitlines())
        assert fine["texts"]
        assert "set --truncate to keep" in refused["error"]

    def test_nothing_to_continue(self) -> None:
        assert "an empty prompt has nothing to continue" in infer(RUN, "", "-c").stderr

    def test_no_checkpoint(self, tmp_path: Path) -> None:
        assert infer(tmp_path / "none", "x").exit_code == 2
        (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 broken")
        assert "no checkpoint" in infer(tmp_path / "broken.pt", "x").stderr
