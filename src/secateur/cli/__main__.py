"""`python -m secateur.cli` is the command line."""

from secateur.cli.main import main

main()
