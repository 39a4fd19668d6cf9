"""What can go wrong through a user's input: each message says what, its value, and what to do."""


class XLabError(Exception):
    """The root of XLab's exceptions; the scripts print its message as one line and end with status 2."""


class ConfigError(XLabError, ValueError):
    """A setting that cannot mean anything, or that contradicts another."""


class DataError(XLabError):
    """A corpus, tokenizer or token store that is missing, broken, or not the one it should be."""


class CheckpointError(XLabError):
    """A checkpoint that cannot be read, must not be read, or does not fit."""


class GenerationError(XLabError, ValueError):
    """A request for text that cannot be answered."""


class TrainingError(XLabError):
    """A run that cannot go on, such as one whose loss is no longer a number."""
