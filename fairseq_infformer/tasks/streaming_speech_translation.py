"""Speech translation on a data folder of prepare_speech.sh, with fairseq's own datasets."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from fairseq.checkpoint_utils import load_pretrained_component_from_model
from fairseq.data import Dictionary
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.tasks import register_task
from fairseq.tasks.speech_to_text import SpeechToTextTask

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.vocabulary_files import load_dictionary

PRETRAINED = "--load-pretrained-encoder-from"


@register_task("streaming_speech_translation")
class StreamingSpeechTranslationTask(SpeechToTextTask):
    """fairseq's ``speech_to_text``, which reports what is wrong with a data folder in one line."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the task's options."""
        super().add_args(parser)
        parser.add_argument(
            PRETRAINED,
            metavar="FILE",
            help="checkpoint whose encoder a training starts with, such as one of speech recognition",
        )

    def __init__(self, args: Namespace, tgt_dict: Dictionary) -> None:
        super().__init__(args, tgt_dict)
        # Files of the configuration are in its folder, wherever that is.
        folder, config = Path(args.data).resolve(), self.data_cfg.config
        config["audio_root"] = str(folder / config.get("audio_root", ""))
        for part, name in (("global_cmvn", "stats_npz_path"), ("bpe_tokenizer", "sentencepiece_model")):
            if name in (settings := config.get(part, {})):
                settings[name] = str(folder / settings[name])

    @classmethod
    def setup_task(cls, args: Namespace, **kwargs: Any) -> "StreamingSpeechTranslationTask":
        """The task for the folder ``args.data``; InputError if it lacks what a folder of prepare_speech.sh has."""
        config = Path(args.data) / args.config_yaml
        if not config.is_file():
            raise InputError(f"{args.data} has no {args.config_yaml}; give a data folder made by prepare_speech.sh")
        try:
            dictionary: Dictionary = load_dictionary(config.parent / S2TDataConfig(config).vocab_filename)
        except InputError:
            raise
        except Exception as error:  # of fairseq or of YAML
            raise InputError(f"{config} cannot be read ({one_line(error)}); run prepare_speech.sh again") from error
        return cls(args, dictionary)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model, which takes the number of features from ``data_cfg``, and let its encoder start as wanted.

        InputError if there is no such encoder in the checkpoint of ``--load-pretrained-encoder-from``.
        """
        # fairseq's own would write it to the settings, to which nothing can be added.
        model = super(SpeechToTextTask, self).build_model(cfg, from_checkpoint)
        if not from_checkpoint and (file := self.args.load_pretrained_encoder_from):
            if not Path(file).is_file():
                raise InputError(f"{PRETRAINED} {file} does not exist; give a checkpoint that does")
            try:
                load_pretrained_component_from_model(model.encoder, file)
            except RuntimeError as error:  # of parameters that differ
                raise InputError(
                    f"{PRETRAINED} {file} has no such encoder ({one_line(error)}); train both with the same settings"
                ) from error
        return model

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Load a split; InputError if the folder does not have it."""
        for name in split.split(","):
            if not (file := Path(self.args.data) / f"{name}.tsv").is_file():
                raise InputError(
                    f"{file} does not exist; give a data folder made by prepare_speech.sh, or another split"
                )
        super().load_dataset(split, epoch, combine, **kwargs)
