"""The `eigenstep` command: measure a spectrum, plan a grid for it, compare grids. Parsing, progress and layout only.

Results go to standard output, progress and messages to standard error. Exit code 2 and one line on standard error for
bad input, 130 after Ctrl-C, 143 after SIGTERM; an error in eigenstep itself keeps its traceback.
"""

from __future__ import annotations

try:
    import click
except ImportError as error:
    raise ImportError(
        'The command line needs click and rich; install them with `pip install "eigenstep[cli]"`.'
    ) from error

from eigenstep._version import __version__
from eigenstep.cli import compare, demo, doctor, evaluate, explore, merge, plan, spectrum, zoo
from eigenstep.cli.errors import Edge

__all__ = ["cli", "main"]


@click.group(cls=Edge, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="eigenstep")
def cli() -> None:
    """Optimal few-step sampling grids for diffusion models, from the eigenvalues of the data's covariance.

    \b
    eigenstep spectrum my-images/ -o mine.json    measure the data once
    eigenstep plan mine.json --steps 6            the noise levels to sample at
    eigenstep compare mine.json --steps 3-20      what they gain over hand-made grids
    """


cli.add_command(spectrum.command)
cli.add_command(merge.command)
cli.add_command(plan.command)
cli.add_command(compare.command)
cli.add_command(evaluate.command)
cli.add_command(zoo.command)
cli.add_command(demo.command)
cli.add_command(doctor.command)
cli.add_command(explore.command)


def main() -> None:
    """Run the command line."""
    cli(prog_name="eigenstep")
