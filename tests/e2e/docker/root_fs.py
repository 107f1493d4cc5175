"""Root file systems for images, made from what is on this machine: programs and the libraries they load."""

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

# A shell's everyday company.
TOOLS = "sh cat sleep stty head tail tr yes env ls id seq dd true".split()
# Directories that no program needs.
UNUSED = {"tests", "test", "__pycache__"}
# Directories which are links on today's distributions.
MERGED = ("bin", "sbin", "lib", "lib64")


class RootFs:
    """Collects files; the same files make the same bytes."""

    def __init__(self):
        self.files = {}

    def add(self, source, place=None):
        """One file, at its own place or another."""
        source = Path(source)
        self.files[merged(place or source)] = source.resolve()

    def add_program(self, source, place=None):
        """A program or a library, with the libraries that it loads."""
        self.add(source, place)
        for library in libraries([source]):
            self.add(library)

    def add_tree(self, source, place=None, skip=()):
        """A directory, except what is skipped in it, and the libraries that its own libraries load."""
        source, place = Path(source), Path(place or source)
        entries = [entry for entry in sorted(source.iterdir()) if entry.name not in skip]
        paths = [path for entry in entries for path in [entry, *sorted(entry.rglob("*"))]]
        paths = [path for path in paths if path.is_file() and not set(path.parts) & UNUSED]
        for path in paths:
            self.add(path, place / path.relative_to(source))
        for library in libraries([path for path in paths if ".so" in path.name]):
            if not library.resolve().is_relative_to(source.resolve()):
                self.add(library)

    def write(self, tar):
        with tarfile.open(tar, "w") as out:
            for name in ("tmp", "proc", "sys", "dev", "etc"):
                out.addfile(directory(name))
            for name in MERGED:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
                out.addfile(link)
            for place, source in sorted(self.files.items()):
                out.add(source, str(place).lstrip("/"), recursive=False, filter=plain)
        return tar


def merged(place):
    place = Path(place)
    top = place.parts[1]
    return Path("/usr") / place.relative_to("/") if top in MERGED else place


def directory(name):
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    return info


def plain(info):
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    return info


def libraries(paths):
    """What the dynamic linker loads for them; nothing for what needs none."""
    told = subprocess.run(["ldd", *map(str, paths)], capture_output=True, text=True, check=False).stdout
    found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", told, re.MULTILINE)
    return [Path(each) for each in found]


def with_tools():
    """A root file system with a shell and its tools."""
    root = RootFs()
    for tool in TOOLS:
        program = shutil.which(tool)
        assert program, f"there is no {tool} here to put into an image"
        root.add_program(program, f"/usr/bin/{tool}")
    return root
