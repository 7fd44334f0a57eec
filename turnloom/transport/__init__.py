"""Reach a server: one channel, deadlines, TLS, streams up and down, and the diagnosis of a failed connection."""
