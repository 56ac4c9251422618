"""`python -m idioteque` and the `idioteque` command: hands over to the command line, if click is installed."""

from __future__ import annotations

import sys

from idioteque.errors import MissingExtra


def main() -> None:
    """Run the command line and exit; without click, name the extra that brings it and exit with 2."""
    try:
        from idioteque.cli import main as run  # click comes with the server extra
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(f"{MissingExtra('the command line', 'server')}\n")
        raise SystemExit(2) from None
    run(prog_name="idioteque")


if __name__ == "__main__":
    main()
