"""Runs a Docker Engine of one's own until it is told to end, and writes where it listens into a file:

    python run_engine.py FILE
"""

import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from engine import Engine, NoEngine  # noqa: E402: found by the line above


def main(file):
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    # Before anything is started that would have to be ended.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        engine = Engine()
    except NoEngine as reason:
        sys.exit(str(reason))
    try:
        # In one piece, for whoever waits for it.
        partial = Path(f"{file}.new")
        partial.write_text(engine.host)
        partial.rename(file)
        signal.sigwait(signals)
    finally:
        engine.end()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
