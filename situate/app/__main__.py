"""``python -m situate.app``: the command line."""

from situate.app.cli import main

if __name__ == "__main__":
    main()
