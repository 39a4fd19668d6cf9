"""Reading safetensors: what a header says is checked before it is believed."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from xlab.errors import CheckpointError
from xlab.interop.safetensors_folder import SafetensorsFolder, read_header, read_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def write(path: Path, header: Any, body: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def index(folder: Path, **places: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


class TestReading:
    def test_one_file(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
        found = SafetensorsFolder(tmp_path)
        assert found.shapes == {"a.weight": (2, 3), "b": (4,)}
        assert all(found[name].equal(tensor) for name, tensor in TENSORS.items())

    def test_many_files(self, tmp_path: Path) -> None:
        for number, (name, tensor) in enumerate(TENSORS.items()):
            save_file({name: tensor}, tmp_path / f"model-{number}.safetensors")
        index(tmp_path, **{"a.weight": "model-0.safetensors", "b": "model-1.safetensors"})
        found = read_tensors(tmp_path)
        assert found.keys() == TENSORS.keys()
        assert all(found[name].equal(tensor) for name, tensor in TENSORS.items())

    def test_a_tensor_in_two_files_is_refused(self, tmp_path: Path) -> None:
        for number in range(2):
            save_file(TENSORS, tmp_path / f"model-{number}.safetensors")
        index(tmp_path, **{"a.weight": "model-0.safetensors", "b": "model-1.safetensors"})
        with pytest.raises(CheckpointError, match=r"a\.weight is in .*model-0\.safetensors and in .*model-1"):
            SafetensorsFolder(tmp_path)

    @pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "", 7])
    def test_an_index_names_files_beside_it_only(self, tmp_path: Path, place: object) -> None:
        index(tmp_path, a=place)
        with pytest.raises(CheckpointError, match="weight_map names no files of its own folder"):
            SafetensorsFolder(tmp_path)

    def test_a_file_that_the_index_names_must_be_there(self, tmp_path: Path) -> None:
        index(tmp_path, a="model-7.safetensors")
        with pytest.raises(CheckpointError, match=r"names model-7\.safetensors, which is not there"):
            SafetensorsFolder(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
    def test_an_index_that_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match="has no weight_map"):
            SafetensorsFolder(tmp_path)

    def test_a_pickle_is_refused_unread(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").mkdir()  # reading it would be another error
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin only, which would have to be unpickled"):
            SafetensorsFolder(tmp_path)

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"has no weights: neither model\.safetensors nor"):
            SafetensorsFolder(tmp_path)


class TestAHeaderThatLies:
    @pytest.mark.parametrize("length", [9, 200_000_000, 2**63, 2**64 - 1])
    def test_about_its_length(self, tmp_path: Path, length: int) -> None:
        path = write(tmp_path / "f", {"a": entry(0, 4, 1)}, b"", length)
        path.write_bytes(path.read_bytes()[:16])
        with pytest.raises(CheckpointError, match=r"says that its header is .* bytes long, and the file has 16"):
            read_header(path)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"{", "no JSON"),
            (b"\xff\xfe", "no JSON"),
            (b"[" * 100_000, "no JSON"),
            ([1], "no JSON object"),
            ({"a": 3}, "nothing whole of 'a'"),
            ({"a": {"dtype": "F32", "shape": [2]}}, "nothing whole of 'a'"),
            ({"a": entry(0, 8, 2, dtype="F8_E4M3")}, "as F8_E4M3, which XLab does not read"),
            ({"a": entry(0, 8, -2)}, "has the shape"),
            ({"a": entry(0, 8, 3)}, "cannot take 8 bytes"),
            ({"a": entry(8, 0, 2)}, "cannot take -8 bytes"),
            ({"a": entry(4, 12, 2)}, "begins at byte 4, not 0"),
            ({"a": entry(0, 8, 2), "b": entry(4, 8, 1)}, "'b' begins at byte 4, not 8"),
            ({"a": entry(0, 4, 1)}, "take 4 bytes, and it has 8"),
            ({"a": entry(0, 4 * 10**15, 10**15)}, "take 4,000,000,000,000,000 bytes, and it has 8"),
        ],
    )
    def test_about_its_tensors(self, tmp_path: Path, header: Any, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            read_header(write(tmp_path / "f", header, bytes(8)))

    @given(st.data())
    def test_a_damaged_file_is_read_whole_or_refused(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        content = bytearray(save(TENSORS))
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(content)))
        path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
        path.write_bytes(content[:cut])
        with contextlib.suppress(CheckpointError):  # and no other error
            assert sum(tensor.nbytes for tensor in read_tensors(path.parent).values()) == 32
