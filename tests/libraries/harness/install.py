"""The three libraries: what installs each in its pinned version, what starts its bot, what it asks the gateway for."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
# Everything that is installed or built lies in the project's ignored folder, except for node_modules.
TARGET = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
INSTALLED = TARGET / "libraries"


@dataclass(frozen=True)
class Library:
    name: str
    # The files that pin versions, in the library's folder.
    pins: tuple
    # Commands that install, run in the library's folder when a pin or this list has changed.
    install: tuple
    # The command that starts the bot.
    bot: tuple
    # `compress` in the URL of the gateway; None when there is no such key.
    compress: str | None

    @property
    def folder(self):
        return HERE / self.name


LIBRARIES = (
    Library(
        name="discordjs",
        pins=("package.json", "package-lock.json"),
        install=(("npm", "ci", "--no-fund", "--no-audit", "--loglevel=error"),),
        bot=("node", HERE / "discordjs" / "bot.js"),
        compress=None,  # Without the optional zlib-sync.
    ),
    Library(
        name="discordpy",
        pins=("requirements.txt",),
        install=(
            (sys.executable, "-m", "venv", "--clear", INSTALLED / "discordpy"),
            (INSTALLED / "discordpy" / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
             "-r", "requirements.txt"),
        ),
        bot=(INSTALLED / "discordpy" / "bin" / "python", HERE / "discordpy" / "bot.py"),
        compress="zlib-stream",
    ),
    Library(
        name="twilight",
        pins=("Cargo.toml", "Cargo.lock", "src/main.rs"),
        install=(("cargo", "build", "--quiet", "--locked", "--target-dir", INSTALLED / "twilight"),),
        bot=(INSTALLED / "twilight" / "debug" / "shardgate-twilight",),
        compress="zstd-stream",
    ),
)


def install(library):
    """Installs `library` unless that was done before with the same pins. Errs when a command does."""
    texts = [(library.folder / pin).read_bytes() for pin in library.pins]
    digest = hashlib.sha256(b"\0".join([repr(library.install).encode(), *texts])).hexdigest()
    stamp = INSTALLED / f"{library.name}.stamp"
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"installing {library.name}", flush=True)
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for command in library.install:
        subprocess.run(list(map(str, command)), cwd=library.folder, check=True)
    stamp.write_text(digest)


def build():
    """Answers the paths of `shardgate` and `loadtest`: from the environment, or built here."""
    paths = [os.environ.get("SHARDGATE"), os.environ.get("LOADTEST")]
    if not all(paths):
        subprocess.run(["cargo", "build", "--release", "--workspace"], cwd=ROOT, check=True)
    built = [TARGET / "release" / "shardgate", TARGET / "release" / "loadtest"]
    return [Path(path or default).resolve() for path, default in zip(paths, built)]
