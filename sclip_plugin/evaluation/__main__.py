"""``sclip eval`` for torchrun: ``torchrun --nproc-per-node 4 -m sclip_plugin.evaluation voc21 --data DIR``."""

import sys

from .cli import eval_app


def main() -> None:
    """Run the command; what users got wrong ends in one sentence, not in a traceback."""
    import typer

    from .. import errors

    package = errors.__name__.rpartition(".")[0]
    try:
        eval_app(prog_name="python -m sclip_plugin.evaluation")
    except (OSError, ValueError, TypeError) as error:
        if not (type(error).__module__.startswith(package) or isinstance(error, OSError)):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
