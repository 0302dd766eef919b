"""Real input: logs of what users did, as bags of items in time order.

Nothing is downloaded and nothing is copied into the project: the logs are read where an installed
package carries them, or from a file the user names.
"""

import csv
import importlib.metadata
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Bags", "DataError", "Log", "NextItem", "load_log"]

#: Rows of a table are counted in 31 bits, so that int32 indices can name each of them.
NUM_ROWS_MAX = 2**31 - 1
#: Most items for training: a table of 1 GiB at 64 columns, of which several copies are made.
NUM_ITEMS_MAX = 2**22


class DataError(ValueError):
    """A log that cannot be used; the message names the file, the place and the limit."""


@dataclass(frozen=True)
class Log:
    """Users' histories in CSR form, each in time order.

    Attributes
    ----------
    name : str
        Short name, for tables.
    source : str
        Where it comes from, in words.
    items : numpy.ndarray
        int64[N]: the item of each event, user by user, from 0 to num_items - 1.
    offsets : numpy.ndarray
        int64[users + 1]: where each user's history begins in ``items``.
    num_items : int
        Number of items: rows of the embedding table.
    """

    name: str
    source: str
    items: np.ndarray
    offsets: np.ndarray
    num_items: int

    def describe(self):
        """Return the log's size and reuse as a dict of plain numbers and words."""
        return {
            "name": self.name,
            "source": self.source,
            "users": len(self.offsets) - 1,
            "items": self.num_items,
            "events": len(self.items),
            "items_seen": len(np.unique(self.items)),
        }


def load_log(path=None):
    """Return a Log: of the file ``path``, or else of the first source that is installed.

    Without ``path`` the sources are, in this order: MovieLens-100K inside the recbole wheel, the
    ZOZOTOWN log inside the obp wheel, and the text of Python's own help topics.

    Parameters
    ----------
    path : str or pathlib.Path or None
        A ``.inter`` file (tab-separated, with RecBole's header ``user_id:token item_id:token …``,
        ordered by ``timestamp:float`` where that column is there), or a ``.npz`` file with the
        arrays ``indices``, ``offsets`` and perhaps ``num_rows``.

    Raises
    ------
    DataError
        The file is missing, is neither kind, or holds what it must not.
    """
    if path is None:
        for source in (_movielens, _zozotown):
            log = source()
            if log is not None:
                return log
        return _help_topics()
    path = Path(path)
    readers = {".inter": _read_inter, ".npz": _read_npz}
    if path.suffix not in readers:
        raise DataError(f"data file must end in {' or '.join(readers)}, not {path.name!r}")
    if not path.is_file():
        raise DataError(f"data file must exist, not {str(path)!r}")
    return readers[path.suffix](path, path.stem, f"the file {path.name}")


def _installed(distribution, end):
    """Return the path of the installed file of ``distribution`` that ends so, or None."""
    try:
        files = importlib.metadata.files(distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.as_posix().endswith(end):
            path = Path(file.locate())
            return path if path.is_file() else None
    return None


def _movielens():
    path = _installed("recbole", "dataset_example/ml-100k/ml-100k.inter")
    if path is None:
        return None
    return _read_inter(path, "MovieLens-100K",
                       "ratings of films (GroupLens), read from the installed recbole package")


def _zozotown():
    path = _installed("obp", "obd/bts/all/all.csv")
    if path is None:
        return None
    users, items, times = [], [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = {"item_id", "timestamp", *(f"user_feature_{n}" for n in range(4))}
        if not needed <= set(reader.fieldnames or ()):
            return None
        for row in reader:
            # The log names no user: those who share all four hashed features count as one.
            users.append(tuple(row[f"user_feature_{n}"] for n in range(4)))
            items.append(row["item_id"])
            times.append(np.datetime64(row["timestamp"][:26]).astype(np.int64))
    return _from_events(
        "ZOZOTOWN", "recommendations shown in a shop (Open Bandit Dataset), one history per group "
        "of users with equal features, read from the installed obp package", users, items, times)


def _help_topics():
    from pydoc_data.topics import topics

    texts = [re.findall(r"[a-z]+", topics[name].lower()) for name in sorted(topics)]
    users = [n for n, words in enumerate(texts) for _ in words]
    words = [word for words in texts for word in words]
    return _from_events("Python help topics",
                        "words of Python's own help texts: the words before predict the next",
                        users, words, range(len(words)))


def _from_events(name, source, users, items, times):
    """Return the Log of events: histories in order of first appearance, each by time, stably."""
    first = {}
    user_ids = np.array([first.setdefault(user, len(first)) for user in users], dtype=np.int64)
    tokens = set(items)
    # Numbered items keep their order; others are ordered as text.
    order = sorted(tokens, key=int) if all(t.isdecimal() for t in tokens) else sorted(tokens)
    number = {token: n for n, token in enumerate(order)}
    item_ids = np.array([number[item] for item in items], dtype=np.int64)
    by_time = np.argsort(np.asarray(times), kind="stable")
    by_user = by_time[np.argsort(user_ids[by_time], kind="stable")]
    offsets = np.zeros(len(first) + 1, dtype=np.int64)
    np.cumsum(np.bincount(user_ids, minlength=len(first)), out=offsets[1:])
    return Log(name, source, item_ids[by_user], offsets, len(order))


def _read_inter(path, name, source):
    users, items, times = [], [], []
    try:
        with path.open(encoding="utf-8") as file:
            header = file.readline().rstrip("\r\n").split("\t")
            columns = {field.split(":")[0]: n for n, field in enumerate(header)}
            for need in ("user_id", "item_id"):
                if need not in columns:
                    raise DataError(f"{path.name}, line 1: header must have a column "
                                    f"'{need}:token' (tab-separated), not {header!r}")
            user, item, time = columns["user_id"], columns["item_id"], columns.get("timestamp")
            for n, line in enumerate(file, start=2):
                row = line.rstrip("\r\n").split("\t")
                if len(row) != len(header):
                    raise DataError(f"{path.name}, line {n}: row must have {len(header)} columns, "
                                    f"not {len(row)}")
                for column in (user, item):
                    if not row[column]:
                        raise DataError(f"{path.name}, line {n}, column {header[column]!r}: "
                                        "token must be text, not ''")
                users.append(row[user])
                items.append(row[item])
                times.append(n if time is None else _timestamp(path, n, header[time], row[time]))
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: text must be UTF-8, not byte "
                        f"{error.object[error.start]:#04x}") from None
    if not users:
        raise DataError(f"{path.name}: file must hold at least one event, not 0")
    return _from_events(name, source, users, items, times)


def _timestamp(path, line, column, text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path.name}, line {line}, column {column!r}: timestamp must be a finite "
                        f"number, not {text!r}")
    return value


def _read_npz(path, name, source):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("indices", "offsets", "num_rows") if key in file}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name}: file must be a NumPy archive of plain arrays, not "
                        f"{error}") from None
    for need in ("indices", "offsets"):
        if need not in arrays:
            raise DataError(f"{path.name}: archive must hold the array {need!r}, not only "
                            f"{sorted(arrays)!r}")
        array = arrays[need]
        if array.ndim != 1 or array.dtype not in (np.int32, np.int64):
            raise DataError(f"{path.name}: {need} must be int32[n] or int64[n], not "
                            f"{array.dtype}{list(array.shape)}")
    indices = arrays["indices"].astype(np.int64)
    offsets = arrays["offsets"].astype(np.int64)
    if len(indices) == 0:
        raise DataError(f"{path.name}: indices must hold at least one event, not 0")
    num_rows = arrays.get("num_rows", np.int64(indices.max() + 1))
    if num_rows.ndim != 0 or num_rows.dtype.kind not in "iu" \
            or not 1 <= num_rows <= NUM_ROWS_MAX:
        raise DataError(f"{path.name}: num_rows must be one integer from 1 to {NUM_ROWS_MAX}, "
                        f"not {num_rows!r}")
    bad = np.flatnonzero((indices < 0) | (indices >= num_rows))
    if len(bad):
        raise DataError(f"{path.name}: indices[{bad[0]}] must be from 0 to {num_rows - 1}, not "
                        f"{indices[bad[0]]}")
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(indices):
        raise DataError(f"{path.name}: offsets must start with 0 and end with the number of "
                        f"indices, {len(indices)}, not {offsets[:1].tolist()} and "
                        f"{offsets[-1:].tolist()}")
    bad = np.flatnonzero(np.diff(offsets) < 0)
    if len(bad):
        raise DataError(f"{path.name}: offsets[{bad[0] + 1}] must be at least offsets[{bad[0]}], "
                        f"{offsets[bad[0]]}, not {offsets[bad[0] + 1]}")
    return Log(name, source, indices, offsets, int(num_rows))


@dataclass(frozen=True)
class Bags:
    """Bags of items and what follows each.

    Attributes
    ----------
    indices : numpy.ndarray
        int64[N] rows.
    offsets : numpy.ndarray
        int64[B + 1] bags.
    targets : numpy.ndarray
        int64[B]: the item that came next.
    """

    indices: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray


class NextItem:
    """Examples from a log: the items a user has seen are a bag, the next item is the target.

    The last event of every history of at least three is held out; all earlier ones with at least
    one event before them are for training.

    Parameters
    ----------
    log : Log
        The log.
    history : int
        Only this many most recent items are kept in a bag.

    Attributes
    ----------
    n_train, n_held_out : int
        Number of examples.
    """

    def __init__(self, log, history=50):
        if history < 1:
            raise ValueError(f"history must be at least 1, not {history!r}")
        if log.num_items > NUM_ITEMS_MAX:
            raise DataError(f"{log.name}: number of items must be at most {NUM_ITEMS_MAX:,}, "
                            f"not {log.num_items:,}")
        self.log = log
        self.history = history
        lengths = np.diff(log.offsets)
        start = np.repeat(log.offsets[:-1], lengths)
        length = np.repeat(lengths, lengths)
        position = np.arange(len(log.items)) - start
        held_out = (position == length - 1) & (length >= 3)
        self._start = start
        self._train = np.flatnonzero((position >= 1) & ~held_out)
        self._held_out = np.flatnonzero(held_out)
        self.n_train, self.n_held_out = len(self._train), len(self._held_out)
        if not self.n_train:
            raise DataError(f"{log.name}: at least one history must have two events, "
                            f"not {int(lengths.max(initial=0))} at most")

    def batch(self, rng, size):
        """Return ``size`` training examples, drawn with replacement by ``rng``, as Bags."""
        return self._bags(self._train[rng.integers(self.n_train, size=size)])

    def held_out(self, limit=None):
        """Return the held-out examples (the first ``limit`` of them) as Bags."""
        return self._bags(self._held_out[:limit])

    def _bags(self, events):
        begin = np.maximum(self._start[events], events - self.history)
        lengths = events - begin
        offsets = np.zeros(len(events) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        indices = self.log.items[np.repeat(begin, lengths) + inside]
        return Bags(indices, offsets, self.log.items[events])
