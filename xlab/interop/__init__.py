"""Models that others publish, and their formats: read into XLab's own words, and written back."""
