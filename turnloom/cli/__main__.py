"""`python -m turnloom.cli`, for where the console script is not on PATH."""

from turnloom.cli import main

main()
