"""`python -m secateur` is the command line."""

from secateur.cli.main import main

if __name__ == "__main__":
    main()
