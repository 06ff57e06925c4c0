"""`eigenstep` and `python -m eigenstep`: the command line, or one line that says what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line: the entry point of the `eigenstep` script."""
    try:
        from eigenstep.cli import main as run
    except ImportError as error:
        if error.name is not None:  # a fault, not the sentence about the extra
            raise
        print(f"eigenstep: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    run()


if __name__ == "__main__":
    main()
