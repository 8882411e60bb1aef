"""The seven stages, in order: prepare, check, train, evaluate, compare, report, track."""
