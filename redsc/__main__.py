"""`python -m redsc` is the command line."""

from redsc.cli import main

if __name__ == "__main__":
    main()
