"""XLab measured against its peers: one module per workload, run as ``python -m benchmarks.NAME``."""
