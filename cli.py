"""Launcher for a checkout: ``python cli.py extract …``; installed, the command is ``embedstore``."""

from embedstore.cli import main

if __name__ == "__main__":
    main()
