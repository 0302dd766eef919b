"""Makes the project's virtual environment, .venv, and keeps it as pyproject.toml asks.

Usage: python3 tools/environment.py [dev | peers]

``dev`` is all that `make demo` and `make test` need. ``peers`` adds PyTorch and FBGEMM; one that
cannot be had is named, and what compares with it is skipped. Standard library only. A second run
does nothing unless pyproject.toml or this file has changed.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"

#: What is installed, in order: pip's arguments, and whether the project can do without (then why).
PARTS = {
    "dev": (
        (["--editable", f"{ROOT}[dev]"], None),
        # Only for the MovieLens-100K log inside; its dependencies (torch among them) are not used.
        (["--no-deps", "recbole==1.2.1"],
         "the demonstration trains on the text of Python's help topics instead of MovieLens-100K"),
    ),
    "peers": (
        (["scipy>=1.13,<2", "torch==2.13.0"], "comparisons with PyTorch are skipped"),
        # Its metadata names other builds of its own; 1.8.0 is the release that loads with 2.13.
        (["--no-deps", "fbgemm-gpu-cpu==1.8.0"], "comparisons with FBGEMM are skipped"),
    ),
}


def digest():
    """Return a text that changes when what is to be installed does."""
    facts = [Path(__file__).read_bytes(), (ROOT / "pyproject.toml").read_bytes(),
             sys.version.encode()]
    return hashlib.sha256(b"".join(facts)).hexdigest()


def main(part):
    """Install ``part``; return the exit status."""
    stamp = VENV / f"tcast-{part}.stamp"
    if stamp.is_file() and stamp.read_text() == digest():
        return 0
    if not PYTHON.exists():
        print(f"Making the virtual environment {VENV.name} …", flush=True)
        venv.create(VENV, with_pip=True)
    complete = True
    for number, (arguments, without) in enumerate(PARTS[part], start=1):
        print(f"[{number}/{len(PARTS[part])}] Installing {' '.join(arguments)} …", flush=True)
        command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
        if subprocess.run(command, check=False).returncode == 0:
            continue
        if without is None:
            print("Installing failed: pip's message above says why.", file=sys.stderr)
            return 1
        print(f"Not available, so {without}.", file=sys.stderr)
        complete = False
    if complete:
        stamp.write_text(digest())
    return 0


if __name__ == "__main__":
    choice = sys.argv[1] if len(sys.argv) > 1 else "dev"
    if choice not in PARTS:
        sys.exit(f"part must be one of {', '.join(PARTS)}, not {choice!r}")
    sys.exit(main(choice))
