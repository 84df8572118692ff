"""Makes of the pictures that the tests took those of docs/screenshots, small enough to keep.

python -m ckanext.webhooks.tests.browser.choose TAKEN DOCS
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

# By what they show, at most ten.
CHOSEN = (
    "index",
    "index-phone",
    "index-de",
    "form-new",
    "secret",
    "webhook-failing",
    "delivery-retried",
    "administration",
    "dataset",
)
# Pixels from the top: what is below is more of the same.
HEIGHT = 1600
# As many as such a file has. By their spread, not by how often they are: a thin bar has its own.
COLOURS, BY = 256, Image.Quantize.MAXCOVERAGE
MOST = 150_000


def choose(taken: Path, docs: Path) -> None:
    """Write the chosen ones.

    :raises ValueError: one does not become small enough
    """
    docs.mkdir(parents=True, exist_ok=True)
    for name in CHOSEN:
        with Image.open(taken / f"{name}.png") as picture:
            shown = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, HEIGHT)))
        path = docs / f"{name}.png"
        shown.quantize(COLOURS, BY, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size > MOST:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MOST}")


if __name__ == "__main__":
    choose(Path(sys.argv[1]), Path(sys.argv[2]))
