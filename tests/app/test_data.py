"""Real logs: what is read, in which order, and what is refused with which words."""

import numpy as np
import pytest

from tcast.data import DataError, Log, NextItem, load_log

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def inter(tmp_path, text, name="log.inter"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_inter_orders_histories_by_time_and_keeps_ties_in_file_order(tmp_path):
    log = load_log(inter(tmp_path, HEADER + (
        "b\t10\t5\t30\n" "a\t9\t1\t7\n" "b\t9\t5\t10\n" "b\t100\t5\t10\n" "a\t10\t2\t6.5\n")))
    assert log.num_items == 3  # 9, 10, 100 as numbers: rows 0, 1, 2
    assert log.offsets.tolist() == [0, 3, 5]
    assert log.items.tolist() == [0, 2, 1, 1, 0]


def test_inter_without_timestamps_keeps_file_order_and_orders_names_as_text(tmp_path):
    log = load_log(inter(tmp_path, "item_id:token\tuser_id:token\nx\tu\n10\tu\n9\tu\r\n"))
    assert log.items.tolist() == [2, 0, 1]  # "10" < "9" < "x"


@pytest.mark.parametrize(("text", "words"), [
    ("", r"line 1: header must have a column 'user_id:token'"),
    ("user_id:token\trating:float\n", r"line 1: .* 'item_id:token'"),
    (HEADER, r"at least one event, not 0"),
    (HEADER + "1\t2\t3\t4\n1\t2\t3\n", r"log\.inter, line 3: row must have 4 columns, not 3"),
    (HEADER + "1\t\t3\t4\n", r"line 2, column 'item_id:token': token must be text, not ''"),
    (HEADER + "1\t2\t3\tnoon\n", r"line 2, column 'timestamp:float': .* finite number, not 'noon'"),
    (HEADER + "1\t2\t3\tinf\n", r"line 2, column 'timestamp:float': .* not 'inf'"),
    (HEADER.encode() + b"1\t\xff\t3\t4\n", r"UTF-8, not byte 0xff"),
])
def test_inter_errors_name_line_and_column(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        load_log(inter(tmp_path, text))


def test_file_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"must exist, not .*none\.inter"):
        load_log(tmp_path / "none.inter")
    with pytest.raises(DataError, match=r"must end in \.inter or \.npz, not 'log\.csv'"):
        load_log(inter(tmp_path, "", "log.csv"))


def npz(tmp_path, **arrays):
    path = tmp_path / "log.npz"
    np.savez(path, **arrays)
    return path


def test_npz_is_read(tmp_path):
    path = npz(tmp_path, indices=np.array([3, 1, 3], np.int32), offsets=np.array([0, 2, 2, 3]),
               num_rows=7)
    log = load_log(path)
    assert (log.num_items, log.name) == (7, "log")
    assert log.items.tolist() == [3, 1, 3]
    assert log.items.dtype == log.offsets.dtype == np.int64
    assert log.offsets.tolist() == [0, 2, 2, 3]


GOOD = {"indices": np.array([0, 1, 2]), "offsets": np.array([0, 3])}


@pytest.mark.parametrize(("changes", "words"), [
    ({"indices": np.array([0.0, 1.0])}, r"indices must be int32\[n\] or int64\[n\], not float64"),
    ({"indices": np.zeros((2, 2), int)}, r"not int64\[2, 2\]"),
    ({"indices": np.array([0, -1, 2])}, r"indices\[1\] must be from 0 to 2, not -1"),
    ({"num_rows": 2}, r"indices\[2\] must be from 0 to 1, not 2"),
    ({"num_rows": 2**31}, r"num_rows must be one integer from 1 to 2147483647"),
    ({"num_rows": np.array([3])}, r"num_rows must be one integer"),
    ({"offsets": np.array([1, 3])}, r"offsets must start with 0 .* 3, not \[1\] and \[3\]"),
    ({"offsets": np.array([0, 2])}, r"number of indices, 3, not \[0\] and \[2\]"),
    ({"offsets": np.array([0, 2, 1, 3])}, r"offsets\[2\] must be at least offsets\[1\], 2, not 1"),
    ({"indices": np.array([], int), "offsets": np.array([0, 0])}, r"at least one event, not 0"),
])
def test_npz_errors_name_position_and_limit(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        load_log(npz(tmp_path, **(GOOD | changes)))


def test_npz_errors_of_the_archive(tmp_path):
    with pytest.raises(DataError, match=r"must hold the array 'offsets', not only \['indices'\]"):
        load_log(npz(tmp_path, indices=np.array([1])))
    with pytest.raises(DataError, match="NumPy archive of plain arrays"):
        load_log(inter(tmp_path, "no archive", "log.npz"))
    with pytest.raises(DataError, match="NumPy archive of plain arrays"):
        load_log(npz(tmp_path, indices=np.array([{}]), offsets=np.array([0, 1])))


def test_next_item_bags_hold_only_what_came_before():
    log = Log("log", "test", np.array([5, 6, 7, 8, 1, 2, 9]), np.array([0, 4, 6, 7]), 10)
    examples = NextItem(log, history=2)
    assert (examples.n_train, examples.n_held_out) == (3, 1)
    held_out = examples.held_out()
    assert (held_out.indices.tolist(), held_out.offsets.tolist(), held_out.targets.tolist()) \
        == ([6, 7], [0, 2], [8])
    bags = examples.batch(np.random.default_rng(0), 64)
    seen = {(tuple(bags.indices[a:b]), int(t)) for a, b, t in
            zip(bags.offsets[:-1], bags.offsets[1:], bags.targets, strict=True)}
    assert seen == {((5,), 6), ((5, 6), 7), ((1,), 2)}


def test_next_item_needs_two_events():
    log = Log("log", "test", np.array([1, 2]), np.array([0, 1, 2]), 3)
    with pytest.raises(DataError, match="must have two events, not 1"):
        NextItem(log)
    with pytest.raises(DataError, match="at most 4,194,304, not 4,194,305"):
        NextItem(Log("log", "test", np.array([1, 2]), np.array([0, 2]), 2**22 + 1))
    with pytest.raises(ValueError, match="history must be at least 1, not 0"):
        NextItem(log, history=0)


def test_every_installed_source_is_readable_and_the_text_of_python_always_is():
    from tcast import data

    logs = [log for log in (data._movielens(), data._zozotown(), data._help_topics()) if log]
    assert load_log().name == logs[0].name
    assert logs[-1].name == "Python help topics"
    for log in logs:
        assert log.offsets[-1] == len(log.items) == log.describe()["events"] >= 10_000
        assert 0 <= log.items.min() and log.items.max() == log.num_items - 1
        if log.name == "MovieLens-100K":
            assert (len(log.offsets) - 1, log.num_items, len(log.items)) == (943, 1682, 100_000)
