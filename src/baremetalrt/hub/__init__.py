"""Models where people already look: a hub of files, and what other programs have on this machine."""
