"""Launcher for a checkout, ``python cli.py extract …``; the installed command is ``embedstore``."""

from embedstore.cli import main

if __name__ == "__main__":
    main()
