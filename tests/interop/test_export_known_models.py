"""Every model of conf/model/ goes into every format that can hold it, and where none can the parts are named."""

import itertools
from pathlib import Path

import pytest
import small_models

from tests.test_conf_models import NAMES, small
from xlab.interop.errors import ConversionError
from xlab.interop.export import export, export_pt
from xlab.interop.proof import Proof
from xlab.interop.proof_process import compare

EVERYWHERE = {"hf", "gguf"}
HELD_BY = dict.fromkeys(NAMES, EVERYWHERE) | {"mistral": {"hf"}, "nanochat": set(), "xlab": set()}
NAMED = {"mistral": "attention.windows", "nanochat": "value_mix", "xlab": "attention.key_shift"}


# XLab's own formats hold whatever parts there are: one model that no other holds stands for all
@pytest.mark.parametrize(
    ("name", "kind"),
    [*itertools.product(NAMES, ["hf", "gguf"]), ("nanochat", "pt"), ("nanochat", "safetensors")],
)
def test_it_is_exported_or_the_parts_without_an_equal_are_named(name: str, kind: str, tmp_path: Path) -> None:
    settings = small(name) | {"vocab_size": small_models.VOCAB_SIZE}
    path = small_models.write(tmp_path / "a.pt", settings, own=small_models.tokenizer(pattern="gpt2"))
    if kind == "pt":
        made = export_pt(path, tmp_path / "made", verify=False)[0]
    elif kind == "safetensors" or kind in HELD_BY[name]:
        made, _ = export(path, tmp_path / "made", kind, verify=False)
    else:
        with pytest.raises(ConversionError, match=NAMED[name]):
            export(path, tmp_path / "made", kind, verify=False)
        assert sorted(tmp_path.iterdir()) == [path]
        return
    assert Proof(**compare(str(path), str(made), kind, "keep")).holds
