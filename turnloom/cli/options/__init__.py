"""Options of the command line: groups that commands share, and lists of numbers."""
