"""`python -m baremetalrt` is `bmrt`."""

from baremetalrt.cli.main import main

main()
