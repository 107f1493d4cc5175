"""The images that the tests run: made once from this machine's files, imported into each Engine."""

import shutil
import subprocess
from pathlib import Path

from processes import binary
from root_fs import with_tools

SIM = "nebula-test/sim:1"
PROGRAM = "/usr/bin/nebula-sim"
SIM_CHANGES = (f'ENTRYPOINT ["{PROGRAM}", "runtime"]',)


def write_sim(directory):
    """The root file system of an image with nebula-sim and a shell, as a file."""
    stripped = Path(directory) / "nebula-sim"
    # Smaller is faster here: it is copied into every Engine.
    if shutil.which("strip"):
        subprocess.run(["strip", "-o", stripped, binary("nebula-sim")], check=True)
    else:
        shutil.copy(binary("nebula-sim"), stripped)
    root = with_tools()
    root.add_program(stripped, PROGRAM)
    return root.write(Path(directory) / "sim.tar")
