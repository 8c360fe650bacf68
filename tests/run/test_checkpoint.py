import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.run.checkpoint import CURRENT, PREVIOUS, Restored, dump, load_bytes, restore, save
from harness.types import ConfigError, Status

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner)
)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.text(), TREES))
def test_plain_trees_come_back_equal(tree: dict[str, object]) -> None:
    assert load_bytes(dump(tree)) == tree


def test_tensors_come_back_bit_for_bit() -> None:
    layer = torch.nn.Linear(2, 3)
    state = {
        "model": layer.state_dict(),
        "bias": layer.bias,
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "ids": [torch.arange(3), torch.tensor(True)],
    }
    found = load_bytes(dump(state))
    assert type(found["model"]) is dict
    assert type(found["bias"]) is torch.Tensor
    assert not found["bias"].requires_grad
    assert torch.equal(found["model"]["weight"], layer.weight)
    assert torch.equal(found["half"], state["half"])
    assert found["half"].dtype is torch.bfloat16
    assert torch.equal(found["ids"][0], torch.arange(3))


def test_a_view_is_kept_without_the_rest_of_its_storage() -> None:
    large = torch.arange(1_000_000)
    data = dump({"view": large[:2]})
    assert len(data) < 10_000
    assert load_bytes(data)["view"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("state", "path", "kind"),
    [
        ({"a": {"b": [1, np.float64(0.1)]}}, r"state\.a\.b\[1\]", "numpy.float64"),
        ({"a": np.zeros(2)}, r"state\.a", "numpy.ndarray"),
        ({"betas": (0.9, 0.999)}, r"state\.betas", "builtins.tuple"),
        ({"f": print}, r"state\.f", "builtin_function"),
        ({"s": Status.OK}, r"state\.s", "Status"),
        ({"s": {1, 2}}, r"state\.s", "builtins.set"),
        ({"d": {(1, 2): 3}}, r"state\.d", r"keys must be str or int, got \(1, 2\)"),
        ({"sparse": torch.eye(2).to_sparse()}, r"state\.sparse", "sparse_coo"),
        ({"object": OrderedDict(a=object())}, r"state\.object\.a", "builtins.object"),
    ],
)
def test_what_could_not_be_read_back_is_refused(state: dict[str, object], path: str, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^{path}: .*{kind}"):
        dump(state)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    marker = tmp_path / "code ran"
    saved = io.BytesIO()
    torch.save({"state": Malicious(marker)}, saved)
    for data in (saved.getvalue(), pickle.dumps(Malicious(marker), protocol=2)):
        with pytest.raises(ConfigError, match="not a state of this harness"):
            load_bytes(data)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists()  # the bytes would have done it


@pytest.mark.parametrize("data", [b"", b"text", dump({"a": 1})[:-50], dump({"a": torch.ones(99)})[:300]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="not a state of this harness"):
        load_bytes(data)


def test_a_state_that_is_no_dict_is_refused() -> None:
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    with pytest.raises(ConfigError, match="must hold a dict, got list"):
        load_bytes(buffer.getvalue())


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    assert restore(tmp_path) is None
    for round in (1, 2, 3):
        save(tmp_path, b"state %d" % round, next_round=round)
    assert restore(tmp_path) == Restored(3, b"state 3")
    (tmp_path / CURRENT).unlink()
    assert restore(tmp_path) == Restored(2, b"state 2")
    assert [path.name for path in (tmp_path / CURRENT).parent.iterdir()] == []


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    changed = {
        "flipped": flipped,
        "cut": data[:-3],
        "empty": b"",
        "no header": data.partition(b"\n")[2],
        "other round": data.replace(b'"next_round": 2', b'"next_round": 1'),
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("flipped", "its checksum is wrong"),
        ("cut", "4 bytes of 7"),
        ("empty", "cut off in its header"),
        ("no header", "cut off in its header"),
        ("other round", "its checksum is wrong"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path: Path, how: str, reason: str) -> None:
    save(tmp_path, b"state 1", next_round=1)
    save(tmp_path, b"state 2", next_round=2)
    damage(tmp_path / CURRENT, how)
    with pytest.warns(UserWarning, match=rf"checkpoint/state\.pt: damaged \({reason}\); .*checkpoint\.prev"):
        assert restore(tmp_path) == Restored(1, b"state 1")
    damage(tmp_path / PREVIOUS, "cut")
    with pytest.raises(ConfigError, match=rf"{reason}.*checkpoint\.prev/state\.pt: damaged.*run\.force=true"):
        restore(tmp_path)


def test_the_only_one_damaged_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, b"state 1", next_round=1)
    damage(tmp_path / CURRENT, "flipped")
    with pytest.raises(ConfigError, match=r"run\.force=true starts again"):
        restore(tmp_path)


def test_a_dump_is_an_ordinary_torch_file() -> None:
    assert zipfile.is_zipfile(io.BytesIO(dump({"a": torch.ones(2)})))
