"""Run `embtune` as `python -m docsgpt_embtune`."""

from docsgpt_embtune.cli import main

if __name__ == "__main__":
    main()
