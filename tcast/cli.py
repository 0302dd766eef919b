"""The command ``tcast``.

Each module of :mod:`tcast.commands` that has a function ``register(app)`` adds its commands to the
typer application; the modules import what is heavy inside their commands, so that ``--help`` is
fast.
"""

import importlib
import pkgutil
import sys

__all__ = ["application", "main"]


def application():
    """Return the typer application with every command."""
    import typer

    from . import commands

    app = typer.Typer(
        name="tcast",
        help="Generator of a tensor gather-scatter engine: emit it, simulate it, compare it.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,              # plain usage errors: one line each
        pretty_exceptions_enable=False,     # a defect shows Python's own traceback
    )

    @app.callback()
    def root():
        pass

    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda module: module.name):
        loaded = importlib.import_module(f"{commands.__name__}.{module.name}")
        if hasattr(loaded, "register"):
            loaded.register(app)
    return app


def main():
    """Run the command line; the entry point ``tcast``."""
    try:
        app = application()
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f"tcast: the command line needs {error.name}: pip install 'tcast[cli]'",
              file=sys.stderr)
        sys.exit(2)
    app()
