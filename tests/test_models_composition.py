"""What a model is made of, and what it starts from: plain settings, classes of one's own, a checkpoint."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import LIGHTNING_NOISE, SEQ_LEN, Run, make_data, make_model, make_trainer, train, write_corpus
from tests.tiny_runs import assert_equal_weights, fit, ragged
from xlab import checkpoint_writing, checkpoints, trusted_classes
from xlab.errors import CheckpointError, ConfigError
from xlab.models import XLabModel
from xlab.transformer.attention import GroupedQueryAttention
from xlab.transformer.norms import LayerNorm

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def short_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen batches an epoch."""
    return write_corpus(tmp_path_factory.mktemp("short") / "corpus.jsonl", n=60)


# --- settings


def test_the_settings_are_plain_data(run: Run) -> None:
    model = make_model(norm=LayerNorm, optimizer=torch.optim.SGD)
    settings = dict(model.hparams)
    assert json.loads(json.dumps(settings)) == settings
    assert settings["norm"] == {"class_path": "xlab.transformer.norms.LayerNorm"}
    assert settings["d_model"] == 16
    assert isinstance(model.decoder.norm, LayerNorm)


def test_a_training_checkpoint_loads_weights_only(run: Run) -> None:
    whole = torch.load(run.trained, weights_only=True)
    assert whole["xlab"]["model"]["d_model"] == 16
    assert {"optimizer_states", "lr_schedulers", "loops"} <= whole.keys()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attention": lambda d_model, n_heads, layer: None}, r"model\.attention is .*give a class, its path"),
        ({"d_model": 15}, "d_model must be divisible by n_heads, got 15 and 2"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"attention": "MultiHedAttention"}, "did you mean 'MultiHeadAttention'"),
        ({"norm": {"class_path": "RMSNorm", "init_args": {"esp": 1e-5}}}, "no option 'esp'; did you mean 'eps'"),
        ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_model(**settings)


@pytest.mark.parametrize(
    "attention",
    [
        {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 1}},
        "MultiQueryAttention",
        "xlab.transformer.attention.MultiHeadAttention",
    ],
)
@pytest.mark.parametrize("others", [{}, {"norm": LayerNorm, "position": "ALiBi", "block": "PostNormBlock"}])
def test_an_architecture_is_composed_and_survives_a_checkpoint(
    tmp_path: Path, run: Run, attention: Any, others: dict[str, Any]
) -> None:
    model = make_model(attention=attention, tie_embeddings=False, **others).eval()
    tokenizer = run.datamodule.tokenizer.to_json()
    head = checkpoints.header(model=model.hparams, data=run.datamodule.hparams, tokenizer=tokenizer, info={})
    checkpoint_writing.write({"xlab": head, "state_dict": model.state_dict()}, tmp_path / "a.ckpt")
    ids = torch.arange(SEQ_LEN)[None]
    with torch.no_grad():
        assert torch.equal(checkpoints.load(tmp_path / "a.ckpt")[0](ids), model(ids))


OWN_LAYERS = """
from torch import Tensor, nn
from xlab.transformer.attention import Attention, Context


class Average(Attention):
    def __init__(self, d_model: int, n_heads: int, layer_index: int, gain: float = 1.0) -> None:
        super().__init__(d_model, n_heads, layer_index)
        self.gain = gain
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        values = self.value(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        zeros = 0 * values
        return self.gain * self.out(self.attend(zeros, zeros, values, context))
"""


def test_a_user_s_own_class_trains_saves_and_generates(
    short_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_layers.py").write_text(OWN_LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_layers", raising=False)
    monkeypatch.setattr(trusted_classes, "_allowed", set(trusted_classes._allowed))
    model = make_model(attention={"class_path": "my_layers.Average", "init_args": {"gain": 0.5}})
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(model, datamodule=make_data(short_corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="--allow-module my_layers"):
        XLabModel.load_from_checkpoint(tmp_path / "a.ckpt")
    checkpoints.allow_module("my_layers")
    again = XLabModel.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.decoder.blocks[1].attention.gain == 0.5
    assert_equal_weights(again, model)
    prompt = torch.tensor([1, 5, 9])
    greedy = again.eval().generate(prompt, 8, temperature=0)
    # no cache in the loop below: the user's class takes part in the cached one through `attend`
    ids = prompt
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, again(ids[None])[0, -1].argmax()[None]])
    assert greedy.tolist() == ids[3:].tolist()


def test_a_class_takes_a_factory_s_place(run: Run) -> None:
    model = make_model(attention={"class_path": f"{__name__}.OneKeyHead"})
    assert isinstance(model.decoder.blocks[0].attention, OneKeyHead)
    assert isinstance(make_model(attention=OneKeyHead).decoder.blocks[0].attention, OneKeyHead)


class OneKeyHead(GroupedQueryAttention):
    """A class of the test's own module."""

    def __init__(self, d_model: int, n_heads: int, layer_index: int) -> None:
        super().__init__(d_model, n_heads, layer_index, n_kv_heads=1)


# --- starting from another model, and generating


def test_init_from_starts_with_the_weights_of_a_checkpoint(run: Run, tmp_path: Path) -> None:
    for path in (run.trained, run.exported):
        model = make_model(seed=5, init_from=str(path))
        assert_equal_weights(model, run.model)
        # its own optimiser and schedule start anew
        recorder = fit(tmp_path, model, ragged(3))
        assert recorder.rates[0] == pytest.approx(0.01)


def test_a_run_that_started_from_a_checkpoint_does_not_need_it_any_more(run: Run, tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    start.write_bytes(run.exported.read_bytes())
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(make_model(init_from=str(start)), datamodule=make_data(run.corpus))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    start.unlink()
    assert XLabModel.load_from_checkpoint(tmp_path / "a.ckpt").hparams["init_from"] is None


def test_init_from_another_shape_is_refused(run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"blocks\.2\..* is missing"):
        make_model(n_layers=3, init_from=str(run.exported))
