"""`python -m infra` and the console script `edgeloop`."""

from infra.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
