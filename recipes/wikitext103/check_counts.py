"""Refuse a text that is not WikiText-103, whose perplexities could not be compared with those that were published.

python -m recipes.wikitext103.check_counts DATA, the folder made by prepare.sh.
"""

import json
import sys
from pathlib import Path

from recipes.launches import die

PUBLISHED = [103227021, 217646, 245569]


def main() -> None:
    stats = json.loads((Path(sys.argv[1]) / "stats.json").read_text(encoding="utf-8"))
    counts = [split["tokens"] for split in stats["splits"].values()]
    if counts != PUBLISHED:
        got, wanted = (", ".join(map(str, numbers)) for numbers in (counts, PUBLISHED))
        die(f"this is not WikiText-103: its splits have {got} tokens, not {wanted}; give --size small for another text")


if __name__ == "__main__":
    main()
