"""The laboratory: what is found out about data and runs, beside training itself."""
