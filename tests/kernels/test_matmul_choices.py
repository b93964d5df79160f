"""The choice of matmul algorithms: the table, and what happens where it does not help."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evenfall.kernels import matmul_choices as module
from evenfall.kernels.cublaslt import CublasLtError, Operands
from evenfall.kernels.matmul_choices import Choice, Choices, Product, Weight

ALGORITHM = (66, 24, 1, 0, 0, 7, 35, 0, 5)
WEIGHT = Weight(300, 200, True, torch.bfloat16)
OTHER = Choice(ALGORITHM, 2.0, 1.5)
STOCK = Choice(None, 1.0, 1.0)


class FakeLt:
    """Multiplies on the CPU; fails where it is told to."""

    def __init__(self, failing: bool = False):
        self.failing = failing
        self.calls = 0

    def run(self, algorithm, operands, a, b, out):
        self.calls += 1
        if self.failing:
            raise CublasLtError("not for these")
        torch.mm(a, b, out=out)


@pytest.fixture
def any_device(monkeypatch):
    """Let operands on a CPU pass for such that cublasLt takes."""

    def operands(a, b, out):
        rows, inner = a.shape
        return Operands(rows, b.shape[1], inner, 1, 1, 1, True, a.dtype)

    monkeypatch.setattr(module.Operands, "of", operands)


def table(rows=1000, choice=OTHER):
    choices = Choices(None)
    choices.set(Product(rows, 300, 200, True), torch.bfloat16, choice)
    return choices


def test_a_choice_holds_for_up_to_twice_or_half_the_rows_it_was_measured_with():
    choices = table(rows=1000)
    assert choices.find(WEIGHT, 2000) == choices.find(WEIGHT, 500) == OTHER
    assert choices.find(WEIGHT, 2100) is None and choices.find(WEIGHT, 0) is None
    assert choices.find(WEIGHT._replace(inner=201), 1000) is None
    choices.set(Product(4000, 300, 200, True), torch.bfloat16, STOCK)
    assert choices.find(WEIGHT, 1900) == OTHER and choices.find(WEIGHT, 2100) == STOCK


def test_a_table_is_read_as_it_was_written():
    written = table()
    written.set(Product(10, 20, 30, False), torch.float16, STOCK)
    read = Choices(None, json.loads(json.dumps(written.to_json())))
    assert read.to_json() == written.to_json()
    assert read.find(WEIGHT, 1000) == OTHER


def test_what_was_measured_here_goes_before_what_was_shipped():
    read = Choices(None, table(choice=STOCK).to_json(), table(choice=OTHER).to_json())
    assert read.find(WEIGHT, 1000) == OTHER


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["rows", "columns", "inner", "transposed", "dtype", "algorithm"]), inner)
    ),
    max_leaves=20,
)


@given(json_values, st.lists(json_values, max_size=4))
def test_damaged_tables_are_left_out(tree, entries):
    good = table().to_json()
    choices = Choices(None, tree, [*entries, *good])
    assert choices.find(WEIGHT, 1000) == OTHER


def test_the_chosen_algorithm_runs(any_device):
    lt = FakeLt()
    choices = Choices(lt, table(rows=4).to_json())  # type: ignore[arg-type]
    a, b = torch.randn(4, 200).bfloat16(), torch.randn(300, 200).bfloat16().t()
    got = choices.multiply(a, b, None)
    assert lt.calls == 1 and got is not None and torch.equal(got, a @ b)


def test_an_algorithm_that_fails_is_not_tried_again(any_device):
    lt = FakeLt(failing=True)
    choices = Choices(lt, table(rows=4).to_json())  # type: ignore[arg-type]
    a, b = torch.randn(4, 200).bfloat16(), torch.randn(300, 200).bfloat16().t()
    assert choices.multiply(a, b, None) is None and choices.multiply(a, b, None) is None
    assert lt.calls == 1


@pytest.mark.parametrize("rows", [float("inf"), 0, -5, None, "many"])
def test_an_entry_with_impossible_rows_is_left_out(rows):
    (entry,) = table().to_json()
    choices = Choices(None, [entry | {"rows": rows}])
    assert choices.find(WEIGHT, 1000) is None and choices.to_json() == []


def test_measurements_are_kept_beside_those_of_other_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "key_of", lambda device, lt: "this GPU")
    file = tmp_path / "evenfall" / "matmul_choices.json"
    file.parent.mkdir()
    file.write_text('{"another GPU": [1]}')
    module.keep(table(), torch.device("cpu"), FakeLt())  # type: ignore[arg-type]
    tree = json.loads(file.read_text())
    assert tree["another GPU"] == [1]
    assert Choices(None, tree["this GPU"]).find(WEIGHT, 1000) == OTHER
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_a_place_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, caplog):
    (tmp_path / "evenfall").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "key_of", lambda device, lt: "this GPU")
    module.keep(table(), torch.device("cpu"), FakeLt())  # type: ignore[arg-type]
    assert "matmul_choices.json was not written" in caplog.text


def test_the_table_that_comes_along_is_read_whole():
    tree = module.read_tables(Path(module.__file__).with_name("matmul_choices.json"))
    assert tree
    for key, entries in tree.items():
        assert ", cuBLASLt " in key
        read = json.loads(json.dumps(Choices(None, entries).to_json()))
        assert read == entries
