"""What the C library does with memory that is given back, while a model is trained on a CPU."""

import contextlib
import ctypes
import sys

# of glibc's malloc.h: mallopt(3)
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let malloc keep large blocks for the next step rather than hand them back to the system.

    Gradients, activations and logits come and go with every step. glibc gives a block above 32 MB (at first 128 kB)
    back at once, and every page of the next is fetched and zeroed anew: a quarter of a step's time with small models.
    What is kept is what the largest step took; a process that has other things to do afterwards does not get it back.

    Returns:
        Whether the C library took it; other than glibc's it is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # a libc that cannot be opened, or has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
    return False
