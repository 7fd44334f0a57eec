"""The demo behind `make demo`: a stack on this machine, a sweep over sample chats, and what it shows."""
