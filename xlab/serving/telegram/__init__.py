"""A Telegram bot that continues what it is sent; the HTTP service does the writing."""
