"""A small random Llama with a tokenizer of its own, to see that everything works: python -m recipes.pretrained.tiny DIR
--raw RAW"""

import argparse
import shutil
from pathlib import Path

from fairseq_infformer.data.corpus import files_of, find_splits
from fairseq_infformer.errors import InputError, install_one_line_messages

TOKENS = 512  # with the 256 bytes
END = "<|endoftext|>"


def write(folder: Path, files: list[Path]) -> None:
    """Model and tokenizer, as ``save_pretrained`` writes them."""
    try:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import LlamaConfig, LlamaForCausalLM
    except ModuleNotFoundError as error:
        raise InputError(f"this needs {error.name}, which is not installed; run: pip install '.[hf]'") from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(file) for file in files], trainer)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dest", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--raw", type=Path, required=True, metavar="RAW", help="folder of the text, as for prepare.sh")
    args = parser.parse_args()
    if args.dest.exists():
        print(f"{args.dest} exists: nothing to do")
        return
    partial = args.dest.with_name(f"{args.dest.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial, files_of(find_splits(args.raw)["train"]))
    partial.rename(args.dest)


if __name__ == "__main__":
    install_one_line_messages()
    main()
