"""Run a command: its session, exit codes, JSON output and Ctrl-C."""
