"""From text to batches of token windows; this folder needs nothing of XLab but its errors."""
