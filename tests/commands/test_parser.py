"""The messages of the command line's parser, in the settings' words."""

from pathlib import Path

import pytest
from commands_setup import small, write_corpus

from xlab.commands.lightning_cli import run
from xlab.errors import ConfigError


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.freeze=embedding*", "model.freeze: Expected a list. Got value: embedding*"),
        ("--model.attention.windows=[16.5]", "model.attention: windows: Expected a int. Got value: 16.5"),
        ("--model.attention.cap=much", "model.attention: cap: Expected a float. Got value: much"),
        ("--model.lora.rank=2.5", "model.lora: rank: Expected a int. Got value: 2.5"),
        (
            "--model.position.scaling=YaRNScaling",
            "model.position: scaling: the following arguments are required: factor, original_max_len",
        ),
        (
            "--model.value_mix=null --model.value_mix.every=2",
            "model.value_mix: there is no setting 'every' here; ValueEmbeddings has it: give the class as well",
        ),
        (
            "--model.attention.qk_norm=null --model.attention.qk_norm.norm=RMSNorm",
            "model.attention: qk_norm: there is no setting 'norm' here; HeadQKNorm, WidthQKNorm have it: give the "
            "class as well",
        ),
        ("--model.attention.windws=[16]", "model.attention: there is no setting 'windws'; did you mean 'windows'?"),
    ],
)
def test_what_may_be_null_is_refused_in_the_setting_s_words(option: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run("fit", [*small(write_corpus(tmp_path / "corpus.jsonl")), *option.split()])
    assert str(refused.value) == said
