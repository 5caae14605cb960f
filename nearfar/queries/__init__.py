"""One file a question to a store: search, anomalies, duplicates and the like."""
