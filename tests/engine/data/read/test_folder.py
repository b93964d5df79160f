"""A folder stands for its rows: none is left out, and none taken for what it is not, without a word."""

import gzip

import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.read.folder import files_of
from evenfall.engine.data.read.read import read_rows

ROW = '{"text": "%s"}\n'


def folder(tmp_path, *names, **contents):
    """Files of one row each, of the file's name; or with other contents, `_dot_` for a dot."""
    each = {name: ROW % name for name in names}
    each |= {name.replace("_dot_", "."): content for name, content in contents.items()}
    for name, content in each.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def taken(path, split="train"):
    return [str(file.relative_to(path)) for file in files_of(path, "rows", split)]


def refused(path, split="train"):
    with pytest.raises(DataError) as error:
        files_of(path, "rows", split)
    return str(error.value)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.jsonl", "test.jsonl"),
        ("data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("train_sft-00000-of-00003.jsonl", "test_sft-00000-of-00001.jsonl"),
        ("chats.train.jsonl.gz", "chats.test.jsonl.gz"),
        ("my_data-training_01.csv", "my_data-testing_01.csv"),
        ("en/train/0000.parquet", "en/test/0000.parquet"),
        ("Train2024.json", "TEST2024.json"),
    ],
)
def test_splits_are_told_by_names_that_begin_or_end_with_them(tmp_path, train, test):
    folder(tmp_path, train, test)
    assert taken(tmp_path) == [train] and taken(tmp_path, "test") == [test]
    assert "no file in the folder is of the split `dev`; there are `test`, `train`" in refused(tmp_path, "dev")


def test_a_word_within_a_name_says_no_split(tmp_path):
    names = ["a_test_of_wit.jsonl", "how_to_train_dragons.jsonl", "latest.jsonl", "python.jsonl"]
    assert taken(folder(tmp_path, *names)) == names


def test_names_of_which_some_say_a_split_are_not_chosen_from(tmp_path):
    said = refused(folder(tmp_path, "chats.jsonl", "train_extra.jsonl"))
    assert "say a split: `train_extra.jsonl (train)`; others do not: `chats.jsonl`. Set" in said
    assert "data.path=rows/chats.jsonl" in said and "data.datasets=[" in said
    assert "data.split" not in said  # the only one is what would be taken anyway


def test_a_split_that_was_asked_for_is_taken_from_names_of_which_some_say_one(tmp_path):
    folder(tmp_path, "python.jsonl", "dev_tools.jsonl")
    assert "Set data.split=validation for those of that split, data.path=rows/python.jsonl" in refused(tmp_path)
    assert taken(tmp_path, "validation") == ["dev_tools.jsonl"]
    assert "others do not: `python.jsonl`" in refused(tmp_path, "test")


def test_a_name_of_two_splits_says_none(tmp_path):
    assert "others do not: `train_test.jsonl`" in refused(folder(tmp_path, "train.jsonl", "train_test.jsonl"))


@pytest.mark.parametrize("name", ["b.jsonl.zst", "c.xlsx", "d.jsonl.xz", "e.csv.bz2", "f.zip", "g.pkl", "h.tar.gz"])
def test_data_that_cannot_be_read_is_not_passed_over(tmp_path, name):
    folder(tmp_path, "a.jsonl", name)
    said = refused(tmp_path)
    assert f"cannot be read: `{name}`; expected JSON" in said and "name those to read" in said
    (tmp_path / "a.jsonl").unlink()
    assert "Unpack or convert them, or move them away" in refused(tmp_path)


def test_data_of_another_split_need_not_be_read(tmp_path):
    folder(tmp_path, "train.jsonl", "test.jsonl.zst")
    assert taken(tmp_path) == ["train.jsonl"]
    assert "cannot be read: `test.jsonl.zst`" in refused(tmp_path, "test")


def test_a_file_without_a_suffix_is_told_by_its_bytes(tmp_path):
    folder(
        tmp_path, "a.jsonl", "d", e=gzip.compress((ROW % "e").encode()), Makefile="all:\n\techo [ ]\n",
        LICENSE='{"text": "no row"}', _SUCCESS="", _metadata=b"PAR1", noise=b"\x00\x01\x02",
    )  # fmt: skip
    rows = read_rows(DatasetConfig(path=str(tmp_path)))
    assert [row.value for row in rows] == [{"text": name} for name in ("a.jsonl", "d", "e")]
    folder(tmp_path, pickled=b"\x80\x05\x95")
    assert "cannot be read: `pickled`" in refused(tmp_path)


def test_what_a_link_stands_for_is_read_once(tmp_path):
    folder(tmp_path, "blobs/0a1b2c")
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "rows.jsonl").symlink_to(tmp_path / "blobs" / "0a1b2c")
    assert taken(tmp_path) == ["snapshots/rows.jsonl"]


def test_what_people_write_beside_data_is_no_row(tmp_path):
    folder(
        tmp_path, "a.jsonl", "readme_first.jsonl", "README.md", "README_zh.md", "LICENSE.txt", "license-MIT",
        "NOTICE", "dataset_card.md", "DataCard.md", "dataset_info.json", "dataset_infos.json", "state.json",
        ".DS_Store", "CHANGELOG.md", "CITATION.cff", "load.py", "plot.png", "__MACOSX/._a.jsonl", ".cache/a.jsonl",
    )  # fmt: skip
    assert taken(tmp_path) == ["a.jsonl", "readme_first.jsonl"]
