"""Blocks made on other cores and kept on disk are those that would be made here."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from processes import ended

from evenfall.engine.config.run_config import DataConfig, DatasetConfig, RunConfig
from evenfall.engine.data.prepare import ahead as ahead_module
from evenfall.engine.data.prepare import begun
from evenfall.engine.data.prepare.ahead import Ahead
from evenfall.engine.data.prepare.block import Account, Block, BlockSettings
from evenfall.engine.data.read.slices import slices_of


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path, count, bad=(), word="q"):
    rows = [{"prompt": f"{word}{n}", "completion": "x" * (n % 50)} for n in range(count)]
    for place in bad:
        rows[place]["completion"] = {}
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DatasetConfig(path=str(path))


def settings(max_length=64, **more):
    data = DataConfig(max_length=max_length, **more)
    return BlockSettings.of(data, data.sources[0], "prompt_completion")


def blocks(tokenizer, source, *, size=0, settings=settings(), then=lambda ahead: None):  # noqa: B008
    with Ahead(tokenizer, size, lambda stage, fraction: None) as ahead:
        made = ahead.blocks(slices_of(source, 2000), settings, "a", lambda rows: None)
        result = []
        for block in made:
            result.append(block)
            then(ahead)
        return result


def assert_same(these: list[Block], those: list[Block]):
    assert len(these) == len(those) > 3
    for one, other in zip(these, those, strict=True):
        assert one.account == other.account
        assert one.examples.files == other.examples.files
        for column in ("ids", "trained", "lengths", "numbers", "rows", "file"):
            here, there = getattr(one.examples, column), getattr(other.examples, column)
            assert here.dtype == there.dtype and np.array_equal(here, there)


def cached(tmp_path):
    return sorted((tmp_path / "cache/evenfall/tokens").glob("??/*.safetensors"))


def test_processes_make_what_would_be_made_here(chatml, tmp_path):
    source = write(tmp_path / "a.jsonl", 400)
    here = blocks(chatml, source)
    assert sum(block.account.dropped.total for block in here) == 8  # every fiftieth answer is empty
    assert sum(block.account.found.counts["cut"] for block in here) > 0
    assert_same(blocks(chatml, source, size=10**8), here)


def test_a_block_is_found_again_by_its_content(chatml, make_tokenizer, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", 400)
    first = blocks(chatml, source, size=5_000_000)
    kept = cached(tmp_path)
    assert len(kept) == len(first)

    def never(*args):
        raise AssertionError("made anew")

    with monkeypatch.context() as patch:
        patch.setattr(ahead_module, "make_block", never)
        assert_same(blocks(chatml, source, size=5_000_000), first)
        (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
        renamed = blocks(chatml, DatasetConfig(path=str(tmp_path / "b.jsonl")), size=5_000_000)
        assert renamed[0].examples.files == (str(tmp_path / "b.jsonl"),)
        assert renamed[0].account.dropped.first["empty answer"][0][0] == str(tmp_path / "b.jsonl")
        other = make_tokenizer(special=["<|new|>"])
        for changed in ({"tokenizer": other}, {"settings": settings(over_long="drop")}):
            with pytest.raises(AssertionError, match="made anew"):
                blocks(
                    **{
                        "tokenizer": chatml,
                        "source": source_of(tmp_path),
                        "size": 5_000_000,
                        **changed,
                    }
                )
    with (tmp_path / "b.jsonl").open("a") as out:
        out.write('\n{"prompt": "new", "completion": "new"}')
    blocks(chatml, source_of(tmp_path), size=5_000_000)
    assert len(cached(tmp_path)) == len(kept) + 1  # the last slice alone is another


def source_of(tmp_path):
    return DatasetConfig(path=str(tmp_path / "b.jsonl"))


@pytest.mark.parametrize("damage", [b"", b"\x08" + bytes(30), b"\xff" * 200])
def test_a_damaged_cache_file_is_made_anew(chatml, tmp_path, damage):
    source = write(tmp_path / "a.jsonl", 400)
    first = blocks(chatml, source, size=5_000_000)
    for file in cached(tmp_path):
        file.write_bytes(damage)
    assert_same(blocks(chatml, source, size=5_000_000), first)
    assert_same(blocks(chatml, source, size=5_000_000), first)
    assert all(file.stat().st_size > 300 for file in cached(tmp_path))


def test_files_that_nobody_used_for_a_month_are_removed(chatml, tmp_path):
    blocks(chatml, write(tmp_path / "a.jsonl", 400), size=5_000_000)
    old = cached(tmp_path)
    for file in old[:-1]:
        os.utime(file, (0, time.time() - 31 * 24 * 3600))
    blocks(chatml, write(tmp_path / "b.jsonl", 150, word="other"), size=5_000_000)
    assert old[-1].exists() and not any(file.exists() for file in old[:-1])


def test_a_full_disk_costs_the_cache_and_nothing_else(chatml, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    try:
        monkeypatch.setattr("evenfall.engine.data.prepare.cache._SPARE_BYTES", 0)
        source = write(tmp_path / "a.jsonl", 4000)
        first = blocks(chatml, source, size=5_000_000)
        assert 0 < len(cached(tmp_path)) < len(first)
        assert not list(folder.rglob(".*.safetensors*"))
        assert_same(blocks(chatml, source, size=5_000_000), first)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_an_error_names_its_row_whoever_met_it(chatml, tmp_path):
    source = write(tmp_path / "a.jsonl", 400, bad=[333])
    for size in (0, 10**8):
        account = Account()
        for block in blocks(chatml, source, size=size):
            account.add(block.account)
        assert account.rows == 400 and account.dropped.first["unreadable"] == [(source.path, 334)]
        [(file, text)] = account.errors
        assert file == source.path
        assert text.startswith(": line 334: `completion[0].role`: expected")


def test_a_process_that_is_killed_costs_nothing_but_time(chatml, tmp_path):
    source = write(tmp_path / "a.jsonl", 3000)
    killed = []

    def kill(ahead):
        for one in ahead._running:
            if one._process.pid not in killed:
                killed.append(one._process.pid)
                os.kill(one._process.pid, signal.SIGKILL)

    here = blocks(chatml, source)
    assert_same(blocks(chatml, source, size=10**8, then=kill), here)
    assert killed


def test_processes_end_with_the_one_that_started_them(tmp_path):
    program = """
import itertools, sys, time
from transformers import AutoTokenizer
from evenfall.presets.load import demo_folder
from evenfall.engine.data.prepare.ahead import Ahead
from evenfall.engine.data.prepare.block import BlockSettings
from evenfall.engine.config.run_config import DataConfig, DatasetConfig
from evenfall.engine.data.read.slices import slices_of
data = DataConfig()
source = DatasetConfig(path=sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(str(demo_folder() / "model"))
ahead = Ahead(tokenizer, 10**8, lambda stage, fraction: None)
settings = BlockSettings.of(data, source, "prompt_completion")
for block in ahead.blocks(itertools.cycle(slices_of(source, 2000)), settings, "a", lambda rows: None):
    print("block", flush=True)
    time.sleep(0.1)
"""
    source = write(tmp_path / "a.jsonl", 400)
    process = subprocess.Popen([sys.executable, "-c", program, source.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "block\n"
    started = psutil.Process(process.pid).children()
    assert started
    process.kill()
    process.wait()
    assert all(ended(one.pid) for one in started), "a process outlived its parent"


def test_processes_that_were_begun_are_taken_and_the_others_ended(chatml, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", 400)
    monkeypatch.setattr(begun, "usable_cores", lambda: 3)
    monkeypatch.setattr(begun, "WORTH_A_PROCESS", 1000)
    config = RunConfig.model_validate({"data": {"path": source.path}})
    begun.begin_processes(config)
    waiting = list(begun._begun)
    try:
        assert len(waiting) == 2 and begun.are_begun()
        with Ahead(chatml, 10**8, lambda stage, fraction: None) as ahead:
            first = next(slices_of(source, 2000))
            there = ahead.block(first, settings())
            assert len(begun._begun) == 1  # one of them made it
    finally:
        begun.end_processes()
    assert not begun.are_begun()
    assert all(ended(process.pid) for process in waiting)
    with Ahead(chatml, 0, lambda stage, fraction: None) as ahead:
        assert np.array_equal(ahead.block(first, settings()).examples.ids, there.examples.ids)


def test_none_are_begun_for_what_is_small_or_no_file(tmp_path):
    for path in ("demo", str(tmp_path), str(tmp_path / "none.jsonl"), write(tmp_path / "a.jsonl", 10).path):
        begun.begin_processes(RunConfig.model_validate({"data": {"path": path}}))
    assert not begun.are_begun()
