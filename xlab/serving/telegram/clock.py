"""Time as an argument: what waits or measures asks a clock, so that tests need not wait."""

import asyncio
import time


class Clock:
    """The real one: seconds that only go forward."""

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        await asyncio.sleep(seconds)
