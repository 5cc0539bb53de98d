"""`python -m docsgpt_embtune` is `embtune`."""

from docsgpt_embtune.cli import main

if __name__ == "__main__":
    main()
