"""What a model's settings say that the defaults do not, however they are written."""

import inspect

from xlab import factories
from xlab.lab.changed_settings import TRAINING, changed
from xlab.models import XLabModel
from xlab.transformer.decoder import Decoder


def test_a_class_with_its_own_defaults_is_the_class() -> None:
    written = {"class_path": "xlab.transformer.norms.RMSNorm", "init_args": {"eps": 1e-6}}
    assert changed({"norm": written}) == {}
    assert changed({"norm": "RMSNorm"}, {"norm": written}) == {}
    assert changed({"norm": "xlab.transformer.norms.RMSNorm"}) == {}


def test_what_differs_is_told_with_the_default() -> None:
    attention = {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 2, "bias": False, "windows": [4]}}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2, "betas": [0.9, 0.999]}}
    defaults = {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}}}
    settings = {"attention": attention, "optimizer": optimizer, "tie_embeddings": False, "d_model": 512}
    assert changed(settings, defaults) == {
        "attention": ("GroupedQueryAttention", "MultiHeadAttention"),
        "attention.n_kv_heads": (2, None),
        "attention.windows": ([4], None),
        "tie_embeddings": (False, True),
        "optimizer.lr": (1e-2, 3e-3),
    }


def test_an_argument_that_one_of_both_leaves_to_the_class_is_told() -> None:
    warm = {"class_path": "Cosine", "init_args": {"warmup_steps": 50}}
    assert changed({"schedule": "Cosine"}, {"schedule": warm}) == {"schedule.warmup_steps": (None, 50)}
    assert changed({"schedule": warm}, {"schedule": "Cosine"}) == {"schedule.warmup_steps": (50, None)}
    # another class has other arguments
    assert changed({"schedule": "Linear"}, {"schedule": warm}) == {"schedule": ("Linear", "Cosine")}


def test_the_defaults_are_those_of_the_model() -> None:
    parameters = inspect.signature(XLabModel).parameters
    for name, usual in TRAINING.items():
        assert factories.class_path(parameters[name].default).rpartition(".")[2] == usual
    shared = inspect.signature(Decoder).parameters.keys() & parameters.keys()
    assert "feed_forward" in shared
    usual = {name: factories.plain(parameters[name].default) for name in shared if name != "self"}
    assert changed({name: value for name, value in usual.items() if value is not inspect.Parameter.empty}) == {}
