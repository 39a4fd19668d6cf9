"""From text to batches of token windows; imports nothing of XLab but its errors."""
