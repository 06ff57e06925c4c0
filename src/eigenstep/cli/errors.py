"""Where a refusal becomes one line on standard error and an exit code, and what is ours keeps its traceback."""

from __future__ import annotations

import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

ARGUMENTS = "eigenstep.arguments"
"""Where a click context keeps what was typed after `eigenstep`."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it kills: the work is left as after Ctrl-C."""


class Edge(click.Group):
    """The one place where a refusal becomes a line on standard error and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they were typed, for the provenance of what a command saves."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command: 2 for bad input, 130 for Ctrl-C, a traceback for what is our own fault."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                # Of one package to the authors of another (diffusers and numpy, say): who types a command can do nothing.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.showwarning = lambda message, *_: say(f"warning: {message}")
                return super().invoke(ctx)
        except Terminated:
            stop("terminated.", code=143)
        except KeyboardInterrupt:
            stop("interrupted.", code=130)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else ctx.command_path
            stop(f"{error.format_message()} `{command} --help` lists what it takes.")
        except BrokenPipeError:
            raise  # the reader of our output has gone, as in `| head`; click ends quietly
        except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
            if not _is_refusal(error):
                raise
            stop(error.strerror or str(error) if isinstance(error, OSError) else str(error), about=error)


def _is_refusal(error: Exception) -> bool:
    """Whether the user can mend `error`: raised on purpose by this package, or by the machine's files and memory."""
    if isinstance(error, (OSError, MemoryError)):
        return True
    if isinstance(error, ImportError):
        return "pip install" in str(error)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    raised_in = frame.f_globals.get("__name__", "")
    return raised_in == "eigenstep._checks" or (isinstance(error, ValueError) and raised_in.startswith("eigenstep."))


def say(message: str) -> None:
    """One line on standard error."""
    click.echo(f"eigenstep: {' '.join(message.split())}", err=True)


def stop(message: str, *, code: int = 2, about: Exception | None = None) -> NoReturn:
    """End the command with one line on standard error, and the file that `about` names."""
    filename = getattr(about, "filename", None)
    say(f"{message}: {filename}" if filename else message)
    raise click.exceptions.Exit(code)


@contextmanager
def terminable() -> Iterator[None]:
    """Within this, SIGTERM raises `Terminated` where Ctrl-C raises KeyboardInterrupt."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    earlier = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
