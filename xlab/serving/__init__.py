"""The model as a service: HTTP as OpenAI's clients speak it, a page to try it on, and a Telegram bot."""
