"""Read local files as conversations: kinds, formats, filters, duplicates, splits; the server uses the same code."""
