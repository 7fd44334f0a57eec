"""The `turnloom` command line."""


def main() -> None:
    """The console script. Imported here, so that who needs one module of this package does not load every command."""
    from turnloom.cli.app import main as run  # noqa: PLC0415

    run()


__all__ = ["main"]
