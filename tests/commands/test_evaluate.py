"""manage.py evaluate: one table or one JSON object, and a line for what cannot be."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from xlab import checkpoints
from xlab.commands.manage import main
from xlab.data.sources import JsonLines
from xlab.evaluation import evaluate


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.mark.usefixtures("there")
class TestEvaluate:
    def test_json_holds_the_figures_of_the_texts(self, corpus: Path) -> None:
        result = run("logs/version_0", "--data", corpus, "--stride", 4, "--json")
        report = json.loads(result.stdout)
        figures = evaluate(*checkpoints.load("logs/version_0"), JsonLines(str(corpus)).documents(), stride=4)
        assert report["data"] == pytest.approx(vars(figures))
        assert report["checkpoint"].endswith("best.ckpt")

    def test_the_table_says_what_was_counted(self, tmp_path: Path) -> None:
        for number in range(3):
            (tmp_path / f"{number}.txt").write_text(f"Document {number}: the module counts.\n")
        table = run("logs/version_0", "--data", tmp_path / "0.txt", tmp_path / "1.txt", tmp_path / "2.txt").stdout
        rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}
        assert rows["documents"] == ["3"]
        assert rows["bytes"] == [str(3 * len("Document 0: the module counts.\n")), "of", "text"]
        assert rows["stride"] == ["8", "tokens"]
        assert float(rows["loss"][0]) > 0

    def test_texts_and_lines_are_measured_together(self, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("The module counts.\n")
        both = json.loads(run("logs/version_0", "--data", tmp_path / "*.txt", "--data", corpus, "--json").stdout)
        assert both["data"]["documents"] == 121

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--data", "nowhere.txt"], "No file matches 'nowhere.txt'"),
            (["--data", "{corpus}", "--column", "body"], "has no column 'body'; it has text. Give --column."),
            (["--data", "{corpus}", "--stride", "17"], "the stride must be from 1 to the context's 16 tokens, got 17"),
            (["--data", "{corpus}", "--batch-size", "0"], "the batch size must be at least 1, got 0"),
            (
                ["--data", "{corpus}", "--batch-size", str(10**12)],
                "a batch of 1000000000000 windows of 16 tokens would",
            ),
            (["--data", "{corpus}", "--device", "abacus"], "the device 'abacus' is not to be had here"),
            (["--data", "{corpus}", "--limit", "3"], "--limit belongs to --tasks"),
            (["--tasks", "x.yaml", "--stride", "3"], "--stride belongs to --data"),
            ([], "there is nothing to measure on; give --data FILES, --chats FILES, or --tasks NAMES"),
            (["--data", "{corpus}", "--chats", "a.jsonl", "b.jsonl"], "b.jsonl is of --data or of --chats"),
            (["--chats", "{corpus}"], "has no column 'messages'; it has text. Give --column."),
            (["{corpus}"], "write --data {corpus}"),
        ],
    )
    def test_a_mistake_is_one_line(self, corpus: Path, arguments: list[str], says: str) -> None:
        result = run("logs/version_0", *(argument.format(corpus=corpus) for argument in arguments))
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert says.format(corpus=corpus) in result.stderr

    def test_tasks_without_lm_eval_say_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        result = run("logs/version_0", "--tasks", "lambada_openai")
        assert result.exit_code == 2
        assert "not installed: pip install lm-eval" in result.stderr

    def test_tasks_are_run_beside_texts(self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("lm_eval", reason="lm-eval is an extra: pip install lm-eval")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
        task = tmp_path / "counting.yaml"
        task.write_text(
            f"task: counting\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {corpus}}}}}\n"
            'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{text}}"\n'
            'doc_to_choice: [" one", " two"]\ndoc_to_target: 0\n'
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        )
        result = run("logs/version_0", "--data", corpus, "--tasks", task, "--limit", 3)
        assert result.exit_code == 0, result.stderr
        assert "counting\n  acc" in result.stdout
        assert "bits per byte" in result.stdout
