"""Files of this machine as conversations: kinds, formats, filters, duplicates, splits; the server reads with them."""
