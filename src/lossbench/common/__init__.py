"""What every stage stands on: tables, files, imports by dotted path, provenance, the device."""
