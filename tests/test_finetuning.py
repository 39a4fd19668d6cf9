"""A model is fine-tuned on fifty records and answers: by infer.py, over HTTP, and as predict's continuations."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.conftest import ROOT
from tests.tiny import LIGHTNING_NOISE
from xlab import checkpoints
from xlab.commands.infer import main as infer
from xlab.commands.lightning_cli import run
from xlab.commands.manage import main as manage
from xlab.data.chat_template import PLAIN
from xlab.data.packing import IGNORED
from xlab.datamodules import XLabDataModule
from xlab.errors import ConfigError, DataError
from xlab.interop import export_huggingface

pytestmark = [pytest.mark.filterwarnings(line) for line in LIGHTNING_NOISE]

ANSWERS = {"sky": "it is blue", "grass": "it is green", "snow": "it is white", "coal": "it is black", "blood": "red!"}
CHAT = ["-c", str(ROOT / "conf/data/chat.yaml"), "--data.source.paths=chats.jsonl", "--data.splits.train=0.7"]
CHAT += ["--data.splits.val=0.2", "--data.splits.test=0", "--data.splits.predict=0.1"]
FIT = ["--trainer.max_steps=160", "--trainer.val_check_interval=160", "--model.schedule.warmup_steps=5"]
FIT += ["--model.optimizer.lr=0.01"]
FIT += ["--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
ONCE = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--model.schedule.warmup_steps=0"]
ONCE += ["--trainer.accelerator=cpu"]

TEXTS = ["--data.source=TextFiles", "--data.source.paths=texts.txt", "--data.source.section_chars=200"]
TEXTS += ["--data.vocab_size=300", "--data.seq_len=48", "--model.d_model=32", "--model.n_layers=2", "--model.n_heads=2"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model (version_0), and the same fine-tuned on chats (version_1)."""
    folder = tmp_path_factory.mktemp("finetuning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = [f"text {n}: the sky is blue, the grass is green, what is {n}?\n\n" for n in range(200)]
        Path("texts.txt").write_text("".join(lines))
        rows = []
        for number in range(50):
            things = list(ANSWERS)[number % 5 :][: 1 + number % 3]  # of one to three turns
            turns = [(("user", f"{thing} {number}?"), ("assistant", ANSWERS[thing])) for thing in things]
            said = [{"role": role, "content": content} for turn in turns for role, content in turn]
            rows.append({"messages": said})
        Path("chats.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        run("fit", [*TEXTS, *ONCE])
        run("fit", ["--model.init_from=logs/version_0", *CHAT, *FIT])
        yield folder


@pytest.fixture
def there(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    return work


@pytest.mark.parametrize("part", [["--model.lora=LoRA"], ["--model.freeze=[blocks.*]"]])
def test_the_fine_tuning_yaml_trains_a_part_of_a_model(there: Path, part: list[str]) -> None:
    tune = ["-c", str(ROOT / "conf/extra/finetune.yaml"), "--trainer.max_steps=1", "--trainer.default_root_dir=parts"]
    run("fit", ["--model.init_from=logs/version_0", *CHAT, *tune, *part, "--trainer.val_check_interval=1"])
    assert checkpoints.read(max(Path("parts/logs").iterdir())).info["step"] == 1


def asked(thing: str) -> str:
    done = CliRunner().invoke(infer, ["logs/version_1", "--ask", f"{thing} 51?", "-g"])
    assert done.exit_code == 0, done.output
    return done.stdout.removesuffix("\n")


def test_it_answers(there: Path) -> None:
    assert {thing: asked(thing) for thing in ANSWERS} == ANSWERS


def test_it_answers_turn_by_turn_past_the_context(there: Path) -> None:
    lines = [f"{thing} {number}?" for number in range(2) for thing in ANSWERS]
    typed = "\n".join([*lines, "", "/undo", "/retry", "/show"]) + "\n"
    done = CliRunner().invoke(infer, ["logs/version_1", "--chat", "-g", "-l", "12"], input=typed)
    assert done.exit_code == 0, done.output
    assert "Ask something, and the model answers" in done.stdout
    assert "(say something: an empty line asks nothing)" in done.stdout
    answers = [line.removeprefix("> ") for line in done.stdout.split("\n\n")[1:]]
    assert answers[:10] == list(ANSWERS.values()) * 2
    assert "> > sky 0?\nit is blue\n\n> grass 0?\nit is green\n" in done.stdout
    texts = CliRunner().invoke(infer, ["logs/version_1", "--chat", "-c", "-l", "3"], input="sky\n")
    assert "Write something, and the model goes on" in texts.stdout


def test_it_answers_over_http(there: Path) -> None:
    from tests.serving.serving_setup import running  # the server's packages, which few tests need

    with running(Path("logs/version_1"), max_rows=1) as server:
        body = {"messages": [{"role": "user", "content": "coal 51?"}], "max_tokens": 20, "temperature": 0}
        (choice,) = server.post("/v1/chat/completions", **body).json()["choices"]
    assert choice["message"]["content"] == ANSWERS["coal"]
    assert choice["finish_reason"] == "stop"


def test_the_template_and_the_settings_stand_in_the_checkpoint_and_its_export(there: Path) -> None:
    exported, _ = checkpoints.export("logs/version_1", "exports")
    for path in ("logs/version_1", exported):
        checkpoint = checkpoints.read(path)
        assert checkpoint.info["chat_template"] == PLAIN
        assert checkpoint.data["chat"] == {"template": PLAIN, "prompt_in_loss": False, "max_tokens": 49}
    datamodule = XLabDataModule.load_from_checkpoint("logs/version_1")
    assert datamodule.chat is not None
    assert datamodule.chat.template == PLAIN


def test_validate_alone_gives_the_logged_figures(there: Path) -> None:
    run("validate", ["--ckpt_path=logs/version_1", "--json=figures.json"])
    figures = json.loads(Path("figures.json").read_text())
    logged = checkpoints.read("logs/version_1").info["metrics"]
    for name in ("loss", "bits_per_byte"):
        assert figures[name] == pytest.approx(logged[f"val/{name}"], abs=2e-6)


def test_evaluate_gives_the_figures_of_validation(there: Path) -> None:
    chats = [line for line in Path("chats.jsonl").read_text().splitlines() if len(json.loads(line)["messages"]) == 2]
    Path("short.jsonl").write_text("\n".join(chats))  # none is cut
    own = ["--data.val_source=ChatRecords", "--data.val_source.paths=short.jsonl"]
    run("validate", ["--ckpt_path=logs/version_1", *own, "--json=short.json"])
    validated = json.loads(Path("short.json").read_text())
    done = CliRunner().invoke(manage, ["evaluate", "logs/version_1", "--chats", "short.jsonl", "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)["chats"]
    assert figures["documents"] == len(chats)
    for name in ("loss", "bits_per_byte", "accuracy"):
        assert figures[name] == pytest.approx(validated[name], abs=2e-6)


def test_only_answers_are_validated(there: Path) -> None:
    datamodule = XLabDataModule.load_from_checkpoint("logs/version_1")
    datamodule.prepare_data()
    said = datamodule.prepared.description["splits"]["val"]["conversations"]["answer_tokens"]
    targets = torch.cat([batch["targets"].flatten() for batch in datamodule.val_dataloader()])
    assert int((targets != IGNORED).sum()) == said
    assert datamodule.chat is not None
    counts_all = replace(datamodule.chat, prompt_in_loss=True)
    whole = XLabDataModule.load_from_checkpoint("logs/version_1", chat=counts_all)
    whole.prepare_data()
    counted = torch.cat([batch["targets"].flatten() for batch in whole.val_dataloader()])
    assert int((counted != IGNORED).sum()) > said
    assert whole.fingerprint == datamodule.fingerprint


def test_predict_asks_what_comes_before_the_last_answer(there: Path) -> None:
    run("predict", ["--ckpt_path=logs/version_1", "--output=p.jsonl", "--data.max_new_tokens=12"])
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert lines
    for line in lines:
        assert line["prompt"].endswith("Assistant:\n")


def test_a_run_goes_on_with_the_same_conversations(there: Path) -> None:
    run("fit", ["--ckpt_path=logs/version_1/checkpoints/last.ckpt", "--trainer.max_steps=162"])
    newest = max(Path("logs").glob("version_*"))
    checkpoint = checkpoints.read(newest / "checkpoints" / "last.ckpt")
    assert checkpoint.info["step"] == 162
    assert checkpoint.info["chat_template"] == PLAIN


def test_a_model_s_own_template_is_taken_and_the_user_s_word_is_stronger(there: Path) -> None:
    Path("own.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
                                 "{% if add_generation_prompt %}[assistant] {% endif %}")  # fmt: skip
    known = ["-c", str(ROOT / "conf/model/gpt2.yaml"), "--model.d_ff=64"]  # it can go out to transformers
    run("fit", [*known, *TEXTS, *ONCE, "--trainer.default_root_dir=known"])
    run("fit", ["--model.init_from=known/logs/version_0", *CHAT, "--data.chat.template=own.jinja", *ONCE])
    newest = max(Path("logs").glob("version_*"), key=lambda path: int(path.name.partition("_")[2]))
    assert checkpoints.read(newest).info["chat_template"] == Path("own.jinja").read_text()
    Path("own.jinja").unlink()
    run("fit", [f"--model.init_from={newest}", *CHAT, *ONCE])
    newest = max(Path("logs").glob("version_*"), key=lambda path: int(path.name.partition("_")[2]))
    checkpoint = checkpoints.read(newest)
    assert checkpoint.info["chat_template"].startswith("{% for m in messages %}[{{ m.role }}]")
    # transformers puts no start before a chat, and this model's all had one
    Path("hf").mkdir()
    export_huggingface.write(checkpoint, Path("hf"), dtype=None, max_shard_bytes=10**9)
    told = json.loads(Path("hf/tokenizer_config.json").read_text())
    assert told["chat_template"] == "{{ bos_token }}" + checkpoint.info["chat_template"]


def test_prepared_conversations_train(there: Path) -> None:
    start = ["--data.tokenizer=xlab.datamodules.CheckpointTokenizer", "--data.tokenizer.path=logs/version_0"]
    words = [*CHAT, *start, "--data.vocab_size=null", "--data.seq_len=48", "--name=chats"]
    done = CliRunner().invoke(manage, ["prepare-data", *words])
    assert done.exit_code == 0, done.output
    (how,) = [line for line in done.output.splitlines() if line.startswith("train with")]
    assert how.endswith("--data.val_data_prefix datasets/chats/1/val --data.chat.prompt_in_loss false")
    prefixes = [f"--data.{split}_data_prefix=datasets/chats/1/{split}" for split in ("train", "val")]
    run("fit", ["--model.init_from=logs/version_0", *prefixes, "--data.chat.prompt_in_loss=true", *ONCE])
    with pytest.raises(DataError, match="holds conversations, of up to 49 tokens"):
        run("fit", ["--model.init_from=logs/version_0", *prefixes, *ONCE])


def test_what_cannot_be_is_one_line(there: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.chat\.max_tokens must be at least 3"):
        run("fit", ["--model.init_from=logs/version_0", *CHAT, "--data.chat.max_tokens=1"])
    with pytest.raises(ConfigError, match=r"data\.chat and data\.meta"):
        run("fit", ["--model.init_from=logs/version_0", *CHAT, "--data.meta.drop=0.1"])
    done = CliRunner().invoke(infer, ["logs/version_0", "--ask", "sky?"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "--ask is for models that know a chat template" in done.stderr
