"""``python -m tcast`` is the command ``tcast``."""

from .cli import main

if __name__ == "__main__":
    main()
