"""Small random models with a tokenizer, as a user has them in a folder, and fairseq's trainings on its tokens."""

from pathlib import Path

import preparing
import small_pretrained
import small_tokenizer
from command_line import TASK, as_flags
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from in_process import start
from tokenizers import Tokenizer

SEGMENT = 8
ARCH = ["--arch", "infinite_former_pretrained"]
GIBBS = as_flags(ltm_basis=16, ltm_widths="0.05,0.2", ltm_samples=32, ltm_density="gibbs")
FLAGS = [
    *TASK,
    *ARCH,
    *as_flags(
        tokens_per_sample=SEGMENT,
        document_boundaries="reset",
        batch_size=2,
        num_workers=0,
        criterion="ltm_cross_entropy",
        optimizer="adam",
        lr=1e-2,
        clip_norm=0,
        log_interval=1,
        log_format="simple",
        cpu=True,
    ),
]
BOOKS = {
    f"{number}.txt": "".join(f"Line {line} of book {number}.\n\nIt ends so.\n" for line in range(number % 3 + 1))
    for number in range(8)
}


def write_model(
    folder: Path, text: str = "".join(BOOKS.values()), architecture: str = "llama", **settings: object
) -> Path:
    """A folder with model and tokenizer; the model has three rows more than there are tokens, as many models have."""
    small_tokenizer.write(folder, text)
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    model = small_pretrained.base(
        architecture, **{"vocab_size": size + 3, "bos_token_id": 0, "tie_word_embeddings": True} | settings
    )
    model.save_pretrained(folder)
    return folder


def prepare(folder: Path, model: Path, books: dict[str, str] = BOOKS) -> Path:
    """Books as a data folder with the tokens of a model; the first two are also those of valid and test."""
    few = dict(list(books.items())[:2])
    raw = preparing.write(folder / "raw", train=books, valid=few, test=few)
    preparing.run(raw, folder / "data", "--tokenizer", model, "--documents", "file", level="tokenizer")
    return folder / "data"


def built(data: Path, *more: object):
    """The trainer of ``fairseq-train``, and its first batches."""
    flags = [data, *FLAGS, "--save-dir", data.parent / "unused", *more]
    args = options.parse_args_and_arch(options.get_training_parser(), [str(flag) for flag in flags])
    return start(convert_namespace_to_omegaconf(args))
