"""The program over a table of hostile inputs: one sentence, an exit code, no traceback, in time."""

import re
import time

import pytest
from hostile import ROWS, prepare, run
from test_hostile_input import CONFIGS, DATA, MODEL_OPTIONS, OPTIONS, SAMPLES


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_hostile_input_ends_in_a_sentence(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    row.make(tmp_path)
    begun = time.monotonic()
    code, message = run(row)
    assert code == row.code, message
    assert re.search(row.words, message), message
    assert "Traceback" not in message
    assert len(message) < 3000
    assert time.monotonic() - begun < 30, "also on a busy machine"


def test_the_table_is_long_enough():
    others = (SAMPLES, DATA, CONFIGS, OPTIONS, MODEL_OPTIONS)
    assert len(ROWS) + sum(map(len, others)) >= 100
    assert len({row.id for row in ROWS}) == len(ROWS)
