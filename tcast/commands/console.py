"""What the commands share: the console, ``--json``, tables, progress and errors.

Results go to standard output, everything else to standard error, so that ``--json`` can be piped.
"""

import json
import sys
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

__all__ = ["EXIT_MISMATCH", "EXIT_USAGE", "Json", "fail", "out", "parse_settings", "print_json",
           "print_table", "progress", "refused"]

EXIT_MISMATCH = 1   #: The command ran, and what it compared differs.
EXIT_USAGE = 2      #: The command could not do what was asked.

#: Type of the parameter of every command that prints a table.
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

#: Standard output. Tables adapt to the terminal; a pipe is wide and gets no colours.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
_err = Console(stderr=True, highlight=False)


def fail(message, status=EXIT_USAGE):
    """Print ``tcast: message`` as one line on standard error and end with ``status``."""
    line = " ".join(str(message).split())
    print(f"tcast: {line}", file=sys.stderr)
    raise typer.Exit(status)


@contextmanager
def refused(*errors):
    """Turn the given exceptions, ValueError and OSError by default, into :func:`fail`.

    Put it around what checks the user's wishes, not around everything: an exception of a defect
    must keep its traceback.
    """
    errors = errors or (ValueError, OSError)
    try:
        yield
    except errors as error:
        if isinstance(error, OSError) and error.strerror:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"{where}{error.strerror}")
        fail(error)


def print_json(data):
    """Print ``data``, of JSON types, on standard output."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(columns, rows, title=None):
    """Print a table on standard output.

    Parameters
    ----------
    columns : iterable of str
        Headings; one that begins with ``>`` is aligned to the right.
    rows : iterable of sequences
        Cells; None is an empty one.
    title : str or None
        Heading of the table.
    """
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column.removeprefix(">"), overflow="fold", no_wrap=number == 0,
                         justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table)


def progress():
    """Return a rich Progress on standard error, for anything longer than two seconds.

    It shows nothing where standard error is no terminal, and leaves nothing behind.
    """
    return Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
                    MofNCompleteColumn(), TimeElapsedColumn(), console=_err, transient=True,
                    disable=not _err.is_terminal)


def parse_settings(settings, known):
    """Return ``key=value`` words as a dict of str to int or str.

    Parameters
    ----------
    settings : iterable of str
        What the user wrote; a value that reads as an integer becomes one.
    known : collection of str
        Allowed keys.

    Raises
    ------
    ValueError
        A word without ``=``, or an unknown key.
    """
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set must be key=value, not {setting!r}")
        if key not in known:
            raise ValueError(f"--set must name one of {', '.join(known)}, not {key!r}")
        try:
            values[key] = int(text, 0)
        except ValueError:
            values[key] = text
    return values
