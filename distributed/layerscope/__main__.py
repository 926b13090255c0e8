"""The `layerscope` command, and `python -m layerscope`: imports nothing of others' before it knows from where."""

from layerscope.imports import leave_working_folder


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and ends the process, as `cli.main` says."""
    leave_working_folder()
    from layerscope.cli import main as run

    run(arguments)


if __name__ == "__main__":
    main()
