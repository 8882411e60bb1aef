"""Results of other programs: tables and summaries read as a study that can be compared."""
