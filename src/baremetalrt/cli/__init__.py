"""The command line: one file per command. Data goes to standard output, all else to standard error."""
