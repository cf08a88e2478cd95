"""Draw the course of a search: the weights of all operations over time, by layer and node.

  python -m recipes.multi30k.plot_search LOG --output FILE.png

LOG is what fairseq-train --task translation_search has printed. recipes/multi30k draws its own searches.
"""

import argparse
from pathlib import Path

from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.modules.operations import DECODER_OPERATIONS, ENCODER_OPERATIONS
from recipes.multi30k import course

OPERATIONS = {"encoder": ENCODER_OPERATIONS, "decoder": DECODER_OPERATIONS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, metavar="LOG", help="of a search")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the plot")
    for side, names in OPERATIONS.items():
        parser.add_argument(f"--{side}-operations", default=",".join(names), help="as the search was given them")
    args = parser.parse_args()
    if not args.log.is_file():
        raise InputError(f"{args.log} does not exist; give the log of a search")
    found = course.read(args.log.read_text(encoding="utf-8", errors="replace"))
    if not found["update"]:
        raise InputError(f"{args.log} has no line with alpha; give the log of a search")
    names = {side: getattr(args, f"{side}_operations").split(",") for side in OPERATIONS}
    for side, own in names.items():
        if (count := len(found[side][0][0][0])) != len(own):
            raise InputError(f"--{side}-operations must be the {count} of the search, got {len(own)}")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(layout="constrained")
    course.draw_courses({"weight": found}, names, figure)
    figure.savefig(args.output, dpi=120)


if __name__ == "__main__":
    install_one_line_messages()
    main()
