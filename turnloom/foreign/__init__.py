"""Read what other tools write as they mean it: JSON text, nulls of tables, columns under other names."""
