"""What other tools write, read as it is meant: JSON text, nulls of tables, columns under other names."""
