"""Commands of ``tcast``, one module each: ``register(app)`` adds it to the typer application."""
