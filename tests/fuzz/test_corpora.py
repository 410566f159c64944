"""Replays the corpus of every fuzz target of this directory, and seeded mutations of it.

A target is a file `target_NAME.py` with `fuzz_one(data: bytes) -> None`, which must not raise, and a corpus of files
under corpus/NAME. With a function `seeds()` its corpus is written anew by `python tests/fuzz/test_corpora.py NAME`
(files that a fuzzer found stay). A slow target sets MUTATIONS for fewer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
NAMES = sorted(path.stem.removeprefix("target_") for path in HERE.glob("target_*.py"))
MUTATIONS = 2000
# Values that sit at the edges of one-byte fields and varints.
EDGES = (0x00, 0x01, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFF)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_target_{name}", HERE / f"target_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))]


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four changes: bytes set, bits flipped, spans cut, doubled or taken from another input."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        end = min(at + rng.randrange(1, 9), len(changed))
        match rng.randrange(7):
            case 0 if at < len(changed):
                changed[at] = rng.choice(EDGES)
            case 1 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                changed.insert(at, rng.randrange(256))
            case 3:
                del changed[at:end]
            case 4:
                changed[at:at] = changed[at:end]
            case 5:
                cut = rng.randrange(len(other) + 1)
                changed[at:] = other[cut : cut + 200]
            case 6:
                changed[at:end] = rng.randbytes(end - at)
    return bytes(changed)


def test_there_are_targets() -> None:
    assert {"header", "frames", "transport_parameters"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_corpus(name: str) -> None:
    target = load(name)
    inputs = corpus(name)
    assert inputs, f"corpus/{name} is empty"
    for data in (b"", *inputs):
        target.fuzz_one(data)


@pytest.mark.parametrize("name", NAMES)
def test_mutations(name: str) -> None:
    target = load(name)
    inputs = corpus(name)
    rng = random.Random(f"{name} 1")
    for number in range(getattr(target, "MUTATIONS", MUTATIONS)):
        data = mutate(rng, rng.choice(inputs), rng.choice(inputs))
        try:
            target.fuzz_one(data)
        except Exception as error:
            raise AssertionError(f"mutation {number} of {name}: {data.hex()}") from error


def write_seeds(name: str) -> None:
    folder = HERE / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("seed-*"):
        old.unlink()
    for data in load(name).seeds():
        (folder / f"seed-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        write_seeds(chosen)
