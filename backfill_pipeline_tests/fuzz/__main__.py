"""Fuzzing led by coverage: `python -m backfill_pipeline_tests.fuzz csv --seconds 60`; needs the extra `fuzz`.

Belongs here: driving a target with atheris.
Does not: targets (`targets.py`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m backfill_pipeline_tests.fuzz", description=__doc__)
    parser.add_argument("target", help="what to fuzz; a wrong name lists them all")
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("--input", type=Path, help="run this one file through the target, and stop")
    asked = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install -e '.[fuzz]'")
    with atheris.instrument_imports(include=["backfill_pipeline", "openpyxl", "mt940"]):
        from backfill_pipeline_tests.fuzz.targets import targets
    known = targets()
    if asked.target not in known:
        sys.exit(f"there is no target {asked.target}: choose one of {', '.join(known)}")
    run, seeds, words = known[asked.target]
    if asked.input is not None:
        run(asked.input.read_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="backfill-corpus-") as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / f"seed{number}").write_bytes(seed)
        dictionary = Path(scratch) / "words"
        quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
        dictionary.write_text("".join(f'"{word}"\n' for word in quoted))
        options = [f"-max_total_time={asked.seconds}", f"-dict={dictionary}", "-max_len=20000", "-timeout=60"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: run(data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
