"""Package and console scripts. ``recipes/setup.sh`` installs it with all it needs into ``.venv``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
setup(
    name="fairseq-infformer",
    version=re.search(r'__version__ = "(.+)"', (root / "fairseq_infformer/__init__.py").read_text(encoding="utf-8"))[1],
    description="The ∞-former (Infinite Memory Transformer) as a fairseq plugin",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["fairseq_infformer", "fairseq_infformer.*"]),
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6,<3",
        "numpy>=1.26",
        "safetensors>=0.4",
    ],
    extras_require={
        # All but the memory alone.
        "fairseq": [
            "fairseq-fixed==0.12.3.1",
            "sentencepiece>=0.2",
            "sacrebleu>=2.3",
            "tensorboard>=2.15",
            "tqdm>=4.60",
        ],
        # A memory for the models of transformers; older versions name the cache otherwise.
        "hf": ["transformers>=5.24,<6"],
        # The LM Evaluation Harness, with these models: infformer-lm-eval.
        "eval": ["lm_eval>=0.4.9", "transformers>=5.24,<6", "accelerate>=1.1"],
        # Reads the weights that recipes/pretrained downloads.
        "gguf": ["gguf>=0.17", "accelerate>=1.1"],
        # Triton's interpreter runs the GPU kernels' tests without a GPU; torch's CPU build does not bring it.
        "test": [
            "pytest>=8",
            "pytest-xdist>=3",
            "pytest-timeout>=2.3",
            "matplotlib>=3.8",
            "transformers>=5.24,<6",
            "accelerate>=1.1",  # transformers' Trainer needs it
            "lm_eval>=0.4.9",
            "triton>=3.3; platform_system == 'Linux' and platform_machine == 'x86_64'",
        ],
        "lint": ["ruff>=0.6"],
        "plot": ["matplotlib>=3.8"],
    },
    entry_points={
        "console_scripts": [
            "infformer-prepare=fairseq_infformer.cli:infformer_prepare",
            "infformer-eval=fairseq_infformer.cli:infformer_eval",
            "infformer-export=fairseq_infformer.cli:infformer_export",
            "infformer-read=fairseq_infformer.cli:infformer_read",
            "infformer-generate=fairseq_infformer.cli:infformer_generate",
            "infformer-inspect=fairseq_infformer.cli:infformer_inspect",
            "infformer-architecture=fairseq_infformer.cli:infformer_architecture",
            "infformer-simultaneous=fairseq_infformer.cli:infformer_simultaneous",
            "infformer-lm-eval=fairseq_infformer.cli:infformer_lm_eval",
        ]
    },
)
