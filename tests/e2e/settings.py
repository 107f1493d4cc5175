"""How much the slow suites do, and with which random numbers.

`NEBULA_FULL=1` asks for everything; without it they do enough to notice what breaks often, in about a minute each.
`NEBULA_SEED` repeats a run's choices. What the machine's scheduler chooses is not repeated.
"""

import os
import random

FULL = os.environ.get("NEBULA_FULL") == "1"
SEED = int(os.environ.get("NEBULA_SEED") or random.SystemRandom().getrandbits(32))


def sized(short, full):
    """How often something is done."""
    return full if FULL else short


def randomness(purpose):
    """Random numbers of its own for each purpose, so that one more draw here changes nothing there."""
    return random.Random(f"{SEED}/{purpose}")
