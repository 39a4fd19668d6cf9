"""Every YAML in conf/ builds and trains, and every README command's options exist."""

import ast
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyarrow import feather

from tests.conftest import ROOT
from xlab import checkpoints
from xlab.commands.lightning_cli import run
from xlab.commands.manage import main as manage
from xlab.commands.train import main as train

TEXT = "The module counts {0} words. It returns the {1}th of them, or raises an error when {0} is odd.\n\n"
SHARDS = ["--data.source=TextFiles", "--data.source.paths=shards/*.txt"]
QUICK = [
    *("--data.vocab_size=300", "--data.seq_len=16", "--data.batch_size=4", "--data.num_workers=0"),
    *("--model.d_model=16", "--model.n_layers=1", "--model.n_heads=2", "--model.schedule.warmup_steps=1"),
    *("--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accumulate_grad_batches=1"),
]


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a little of everything that the files in conf/data/ read."""
    texts = [TEXT.format(number, number % 7) * 3 for number in range(200)]
    (tmp_path / "my.txt").write_text("".join(texts))
    (tmp_path / "corpus.txt").write_text("\n<|endoftext|>\n".join(texts))
    (tmp_path / "shards").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "shards" / f"{number:03}.txt").write_text(text)
    hub = tmp_path / "wikipedia" / "20231101.en"
    hub.mkdir(parents=True)
    for number in range(2):
        part = texts[number * 100 : number * 100 + 100]
        pq.write_table(pa.table({"title": ["t"] * 100, "text": part}), hub / f"train-{number:05}-of-00002.parquet")
    pairs = [{"prompt": f"How many, number {n}?", "response": f"There are {n % 7}."} for n in range(200)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    said = [[("user", pair["prompt"]), ("assistant", pair["response"])] for pair in pairs]
    chats = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in said]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (tmp_path / "talks").mkdir()
    pq.write_table(pa.Table.from_pylist(chats), tmp_path / "talks" / "train.parquet")
    rows = [json.dumps({"body": text, "meta": f"text {number}"}) for number, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    (tmp_path / "arrow").mkdir()
    feather.write_feather(pa.table({"text": texts}), str(tmp_path / "arrow" / "part.arrow"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/text.yaml", ["--data.source.paths=my.txt", "--data.source.section_chars=500"]),
        ("data/shards.yaml", []),
        ("data/delimited.yaml", []),
        ("data/parquet.yaml", []),
        ("data/arrow.yaml", []),
        ("data/mixture.yaml", []),
        ("data/filtered.yaml", []),
        ("data/meta.yaml", []),
        ("data/chat.yaml", ["--data.chat.max_tokens=64"]),
        ("data/prompts.yaml", ["--data.chat.max_tokens=64"]),
        (
            "data/hub_chat.yaml",
            ["--data.source.path=talks", "--data.source.split=train", "--data.chat.max_tokens=64"],
        ),
        ("data/packing_best_fit.yaml", SHARDS),
        ("data/packing_one_document.yaml", SHARDS),
        ("data/packing_token_budget.yaml", SHARDS),
        ("data/packing_overlap.yaml", [*SHARDS, "--data.packing.step_size=8"]),
        ("data/streaming.yaml", ["--data.source.path=wikipedia"]),
        ("data/hub.yaml", ["--data.source.path=wikipedia", "--data.source.name=20231101.en"]),
        ("xlab.yaml", ["--data.source.path=wikipedia"]),
    ],
)
def test_a_yaml_trains(corpora: Path, file: str, source: list[str]) -> None:
    run("fit", ["-c", str(ROOT / "conf" / file), *source, *QUICK])
    assert checkpoints.read("logs/version_0").info["step"] == 2


@pytest.mark.parametrize(
    ("file", "leaves"),
    [
        ("extra/tensorboard.yaml", "logs/version_0/events.out.tfevents.*"),
        ("extra/csv.yaml", "logs/version_0/metrics.csv"),
        ("extra/wandb.yaml", "logs/version_0/wandb/offline-run-*"),
        ("extra/mlflow.yaml", "mlruns/*/*/metrics/val/loss"),
        ("extra/text_samples.yaml", "logs/version_0/generated.jsonl"),
        ("extra/early_stopping.yaml", "logs/version_0/checkpoints/best.ckpt"),
        ("extra/checkpoints.yaml", "logs/version_0/checkpoints/last.ckpt"),
        ("extra/async_checkpoints.yaml", "logs/version_0/checkpoints/last.ckpt"),
        ("extra/skip_spikes.yaml", "logs/version_0/checkpoints/last.ckpt"),
        ("extra/activation_checkpointing.yaml", "logs/version_0/checkpoints/last.ckpt"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:(wandb|mlflow)")  # what the packages say of their own
def test_an_extra_yaml_does_what_it_says(corpora: Path, file: str, leaves: str) -> None:
    package = Path(file).stem
    if package in ("wandb", "mlflow"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'xlab[{package}]'")
    run("fit", ["-c", str(ROOT / "conf" / file), *SHARDS, *QUICK])
    assert list(Path().glob(leaves))
    record = json.loads(Path("logs/version_0/run.json").read_text())
    assert record["status"] == "finished"
    assert record["peak"]["flops_per_s"] > 0


def test_extra_yaml_add_up(corpora: Path) -> None:
    extra = [
        word for name in ("csv", "tensorboard", "text_samples", "skip_spikes") for word in ("-c", extra_yaml(name))
    ]
    run("fit", [*extra, *SHARDS, *QUICK])
    names = {path.name.partition(".out")[0] for path in Path("logs/version_0").iterdir()}
    assert names >= {"metrics.csv", "metrics.jsonl", "events", "generated.jsonl", "run.json"}


def extra_yaml(name: str) -> str:
    return str(ROOT / "conf" / "extra" / f"{name}.yaml")


@pytest.mark.parametrize(
    "file", ["extra/original.yaml", "extra/schedule_free.yaml", "extra/ema.yaml", "extra/adamw.yaml"]
)
def test_an_optimizer_s_yaml_trains_resumes_and_exports_what_was_validated(corpora: Path, file: str) -> None:
    if "schedule_free" in file:
        pytest.importorskip("schedulefree", reason="schedule-free AdamW is an extra")
    text = ["-c", str(ROOT / "conf/data/text.yaml"), "--data.source.paths=my.txt", "--data.source.section_chars=500"]
    settings = [*text, "-c", str(ROOT / "conf" / file), *QUICK]
    run("fit", settings)
    run("fit", [*settings, "--ckpt_path=logs/version_0", "--trainer.max_steps=4"])
    assert checkpoints.read("logs/version_1/checkpoints/last.ckpt").info["step"] == 4
    exported, _ = checkpoints.export("logs/version_0/checkpoints/last.ckpt", "exports")
    for path in (exported, "logs/version_0"):
        run("validate", ["--ckpt_path", str(path), "--json=again.json"])
        figures = json.loads((corpora / "again.json").read_text())
        assert figures["loss"] == pytest.approx(
            checkpoints.read("logs/version_0").info["metrics"]["val/loss"], abs=2e-6
        )


def test_the_nietzsche_yaml_trains(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "shared").symlink_to(shared_data.parent)
    monkeypatch.chdir(tmp_path / "repository")
    run("fit", ["-c", str(ROOT / "conf/data/nietzsche.yaml"), *QUICK, "--trainer.limit_val_batches=2"])
    checkpoint = checkpoints.read("logs/version_0")
    assert checkpoint.data["val_source"]["init_args"]["text_column"] == "body"


def test_prepared_data_train_alone_and_in_shards(corpora: Path) -> None:
    text = ["-c", str(ROOT / "conf/data/delimited.yaml"), "--data.vocab_size=300"]
    prepared = ["-c", str(ROOT / "conf/data/prepared.yaml"), *QUICK[1:]]
    assert CliRunner().invoke(manage, ["prepare-data", *text]).exit_code == 0
    run("fit", prepared)
    shutil.move("datasets/corpus/1", "whole")
    text += ["--data.tokenizer=TokenizerFile", "--data.tokenizer.path=whole/tokenizer.json"]
    for shard in ("0/2", "1/2"):
        assert CliRunner().invoke(manage, ["prepare-data", *text, "--shard", shard]).exit_code == 0
    run("fit", prepared)
    figures = [checkpoints.read(f"logs/version_{version}") for version in (0, 1)]
    assert [figure.info["step"] for figure in figures] == [2, 2]
    assert [figure.model["vocab_size"] for figure in figures] == [300, 300]


def test_every_yaml_is_tested_here() -> None:
    named = set(re.findall(r"[\w/]+\.yaml", Path(__file__).read_text()))
    # test_finetuning.py has extra/finetune.yaml
    # tests of two ranks have extra/ddp.yaml (test_train.py), extra/fsdp.yaml and extra/tp.yaml (test_distributed.py)
    # test_conf_models.py trains those of conf/model/; make demo runs the default, and every other test starts from it
    known = {name.removeprefix("conf/") for name in named} | {"defaults.yaml", "data/python_docs.yaml"}
    files = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {file for file in files if not file.startswith("model/")} <= known


def documented_commands() -> list[list[str]]:
    lines = [line for page in ("README.md", "docs/configuration.md") for line in (ROOT / page).read_text().splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("./xlab.py fit ")]
    assert len(commands) >= 6
    return commands


@pytest.mark.parametrize("command", documented_commands(), ids=" ".join)
def test_a_documented_command_has_options_that_exist(
    command: list[str], corpora: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(corpora)
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    (corpora / "mine.yaml").write_text("data: {batch_size: 4}\n")
    if any("logs/version_0" in word for word in command):  # what its reader has by then
        run("fit", ["-c", str(ROOT / "conf/data/text.yaml"), *QUICK, "--data.source.section_chars=500"])
    (corpora / "my_parts.py").write_text(own_part_of_the_documentation())
    arguments = [word.replace("conf/", f"{ROOT}/conf/") for word in command[2:]]
    with pytest.raises(SystemExit) as end:
        run("fit", [*arguments, "--print_config"])
    assert end.value.code in (0, None)
    assert "max_steps" in capsys.readouterr().out


def own_part_of_the_documentation() -> str:
    """The class of docs/configuration.md; the README's is the same, without its docstrings."""
    found = re.search(
        r"```python\n(\"\"\"A feed-forward of my own.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL
    )
    assert found
    short = re.search(r"```python\n# my_parts.py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert short
    without = ast.parse(found[1])
    without.body.pop(0)
    kind = without.body[-1]
    assert isinstance(kind, ast.ClassDef)
    kind.body.pop(0)
    assert ast.dump(without) == ast.dump(ast.parse(short[1]))
    return found[1]


def test_the_scripts_have_the_commands_that_the_readme_names() -> None:
    assert set(train.commands) == {"fit", "validate", "test", "predict"}
