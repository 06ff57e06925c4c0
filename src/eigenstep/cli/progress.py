"""Progress on standard error: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eigenstep.cli.errors import say


@contextmanager
def progress(task: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """Progress with rate and remaining time on standard error: a bar on a terminal, else a line every half minute.

    Yields what tells it (done, total); what is done at the first call was done before, and says nothing of the rate.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        yield lambda done, total: None
    elif console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(task), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
        )
        with Progress(*columns, console=console, transient=True) as bar:
            running = bar.add_task(task, total=None, rate="")
            pace = Pace()
            yield lambda done, total: bar.update(running, completed=done, total=total, rate=pace.rate(done))
    else:
        yield Log(task, Pace())


class Pace:
    """Items per second since the first report."""

    def __init__(self) -> None:
        """No report yet."""
        self.first: tuple[float, int] | None = None

    def __call__(self, done: int) -> float:
        """The mean rate, 0 at the first report."""
        now = time.monotonic()
        if self.first is None:
            self.first = (now, done)
        began, before = self.first
        return (done - before) / (now - began) if now > began else 0.0

    def rate(self, done: int) -> str:
        """The rate in words."""
        pace = self(done)
        return f"{pace:,.0f}/s" if pace >= 10 else f"{pace:.2g}/s"


class Log:
    """Progress in a log file: one line every half minute, none for what is done within it."""

    def __init__(self, task: str, pace: Pace, every: float = 30.0) -> None:
        """Begin now; `every` is in seconds."""
        self.task, self.pace, self.every = task, pace, every
        self.said = time.monotonic()

    def __call__(self, done: int, total: int | None) -> None:
        """Say where the work stands, if it is time."""
        pace = self.pace(done)
        if time.monotonic() - self.said < self.every:
            return
        self.said = time.monotonic()
        of, left = "", ""
        if total is not None:
            of = f" of {total:,}"
            left = f", {duration((total - done) / pace)} left" if pace > 0 else ""
        say(f"{self.task}: {done:,}{of}, {self.pace.rate(done)}{left}.")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that matter."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
