"""The command `zoo`, and ``python -m zoo``: importing zoo has made sure that `inference` is ours."""

from __future__ import annotations

from importlib import import_module


def main() -> None:
    """Run the command line."""
    import_module("inference.cli").main()


if __name__ == "__main__":
    main()
