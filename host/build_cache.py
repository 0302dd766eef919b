"""Builds that are made once: a directory for each set of sources, flags and tool versions.

Every build lies in ``build/<kind>/<hash>``, where the hash covers everything the result depends on:
a build is never stale, and equal builds are shared. A lock and a completion mark, written last,
make that safe for several processes at once.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["BuildError", "build_directory", "build_once", "build_place", "file_facts",
           "run_logged"]


class BuildError(RuntimeError):
    """A tool is missing, or it refused the sources."""


def build_directory():
    """Return the directory of all builds.

    It is TCAST_BUILD_DIR if that is set, ``build/`` of a source checkout, else
    ``~/.cache/tcast`` (XDG_CACHE_HOME is respected).
    """
    if chosen := os.environ.get("TCAST_BUILD_DIR"):
        return Path(chosen).absolute()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "build"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tcast"


def build_place(facts, kind):
    """Return the directory of the build that ``facts`` determine; built if it holds `complete`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return build_directory() / kind / digest[:32]


def build_once(facts, kind, build):
    """Return the directory of the build that ``facts`` determine, building it if it is not there.

    Parameters
    ----------
    facts : object
        Anything JSON can hold: everything the result depends on.
    build : Callable[[pathlib.Path], None]
        Builds into the empty directory it is given.
    kind : str
        Name of the folder of such builds.

    Returns
    -------
    pathlib.Path
        The directory, complete.
    """
    directory = build_place(facts, kind)
    if " " in str(directory):
        raise BuildError(f"the build directory must have no blank in its path (make cannot work "
                         f"there), not {str(directory)!r}; set TCAST_BUILD_DIR")
    mark = directory / "complete"
    if mark.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            shutil.rmtree(directory, ignore_errors=True)  # left by a build that was stopped
            directory.mkdir()
            build(directory)
            mark.touch()
    return directory


def file_facts(files):
    """Return [name, sha256] of each file, for the facts of a build."""
    return [[Path(file).name, hashlib.sha256(Path(file).read_bytes()).hexdigest()]
            for file in files]


def run_logged(command, directory, environment):
    """Run ``command`` in ``directory``, its output to log.txt there; a BuildError has its tail."""
    log = directory / "log.txt"
    with open(log, "a") as output:
        output.write("$ " + " ".join(map(str, command)) + "\n")
        output.flush()
        done = subprocess.run([str(part) for part in command], cwd=directory, env=environment,
                              stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise BuildError(f"{Path(command[0]).name} failed with status {done.returncode}; "
                         f"the end of {log}:\n{tail}")
