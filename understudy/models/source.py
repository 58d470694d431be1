"""Where a model reference's files are, and what they hold: configuration, tokenizer, weights.

Weights are read from safetensors only, and code that comes with a model is never run. Knows nothing of adapters; what
cannot be read becomes ModelNotFound or ModelError, which name the reference and what would be right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
)

from understudy.artifacts import ArtifactStore
from understudy.errors import ArtifactNotFound, ModelError, ModelNotFound
from understudy.models.cut import layer_counts
from understudy.models.names import FAMILIES, PREFIX, base_of, is_cut, parse_cut, parse_scratch

__all__ = ["LOADERS", "Architecture", "Source", "architecture", "architecture_of", "local_path"]

Architecture = Literal["seq2seq", "causal", "classifier"]

LOADERS: dict[str, Any] = {
    "seq2seq": AutoModelForSeq2SeqLM,
    "causal": AutoModelForCausalLM,
    "classifier": AutoModelForSequenceClassification,
}

HUB_SECONDS = 5.0
"""How long the hub may take to say whether it has a model."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_ARTIFACT = re.compile(r"[a-z]+-[0-9a-f]{24}")

# A bar per file is noise in a service's log and in a worker's.
transformers.utils.logging.disable_progress_bar()


def architecture(config: PreTrainedConfig) -> Architecture:
    """Which adapter a configuration needs; raises ModelError where none fits."""
    named = next(iter(config.architectures or []), "")
    kind = type(config)
    writes = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder:
        return "seq2seq"
    if named.endswith(("ForCausalLM", "LMHeadModel")) or (writes and not named.endswith("ForSequenceClassification")):
        return "causal"
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not writes:
        return "classifier"
    raise ModelError(
        f"{named or kind.__name__} is neither an encoder-decoder, nor a decoder that writes, nor an encoder that "
        "classifies",
        param="model",
    )


def architecture_of(ref: str, store: ArtifactStore | None = None) -> Architecture:
    """The architecture behind a reference, without its weights; that of a cut is its base's.

    Raises InvalidRequest for a cut that keeps more layers than there are.
    """
    if ref.startswith(PREFIX):
        return FAMILIES[parse_scratch(ref).family]
    config = Source.find(base_of(ref) if is_cut(ref) else ref, store).config()
    if is_cut(ref):
        layer_counts(config, parse_cut(ref))
    return architecture(config)


def local_path(ref: str) -> Path:
    """A reference read as a path, which need not exist; raises ModelNotFound for one that no path can be."""
    try:
        path = Path(ref).expanduser()
        path.exists()  # raises where a part is too long for the file system
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: the home of a user that there is not
        raise ModelNotFound(f"no model '{ref[:100]}': {error}"[:300], param="model") from error
    return path


@dataclass(frozen=True)
class Source:
    """A reference and its `place`: a local folder, or a hub name."""

    ref: str
    place: str

    @classmethod
    def find(cls, ref: str, store: ArtifactStore | None) -> Source:
        """Look among the artifacts, then among folders, then take it for a hub name; raises ModelNotFound."""
        missing = "no store of artifacts is configured"
        if store is not None:
            try:
                return cls(ref, str(store.folder(store.resolve(ref))))
            except ArtifactNotFound as error:
                missing = error.message
        path = local_path(ref)
        if (path / "config.json").is_file():
            return cls(ref, str(path))
        if _ARTIFACT.fullmatch(ref):
            raise ModelNotFound(f"no model '{ref}': {missing}", param="model")
        if path.exists() or not _HUB_NAME.fullmatch(ref):
            why = "has no config.json" if path.exists() else "does not exist"
            raise ModelNotFound(f"no model '{ref}': as a folder it {why}, and {missing}", param="model")
        return cls(ref, ref)

    def config(self) -> PreTrainedConfig:
        self._reach()
        try:
            config = AutoConfig.from_pretrained(self.place, trust_remote_code=False)
        except OSError as error:
            raise self._not_found(error) from error
        except (ValueError, KeyError) as error:  # an unknown model type, or one whose code comes with it
            raise self._unusable("configuration", error) from error
        # A configuration may name attention kernels to be fetched and run; the choice is ours.
        config._attn_implementation = None
        return config

    def tokenizer(self) -> Any:
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.place, trust_remote_code=False)
        except OSError as error:
            raise self._not_found(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._unusable("tokenizer", error) from error
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer of '{self.ref}' reports no offsets: save it as tokenizer.json", param="model"
            )
        return tokenizer

    def weights(
        self, config: PreTrainedConfig, loader: Any, *, dtype: str = "float32", device: str = "cpu", whole: bool = True
    ) -> Any:
        """The model in `loader`'s form. `whole` refuses weights that lack a part, which would be drawn at random."""
        try:
            model, found = loader.from_pretrained(
                self.place,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            model = model.to(device)
        except OSError as error:
            raise self._not_found(error) from error
        except torch.OutOfMemoryError as error:
            raise ModelError(f"'{self.ref}' does not fit into the memory of {device}", param="model") from error
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise self._unusable("weights", error) from error
        if whole and found["missing_keys"]:
            raise ModelError(
                f"'{self.ref}' has no weights for {', '.join(sorted(found['missing_keys'])[:3])}: as a "
                f"{architecture(config)} it is not trained yet. Fine-tune it first",
                param="model",
            )
        return model

    def _reach(self) -> None:
        """Ask the hub once for what is not here yet: its own client tries for 23 seconds before it says that it cannot.

        What the hub itself answers is left to that client. Raises ModelNotFound where there is no answer.
        """
        name = "config.json"
        if Path(self.place).is_dir() or isinstance(try_to_load_from_cache(self.place, name), str):
            return
        try:
            get_hf_file_metadata(hf_hub_url(self.place, name), timeout=HUB_SECONDS)
        except (HfHubHTTPError, FileMetadataError, ValueError):
            return
        except Exception as error:  # of whichever HTTP library the hub's client is built on
            raise self._not_found(error) from error

    def _not_found(self, error: Exception) -> ModelNotFound:
        return ModelNotFound(
            f"no model '{self.ref}': it is no artifact, alias or folder with all its files, and as a hub name it "
            f"could not be read ({_first_line(error)}). Give an artifact id, an alias, a folder with config.json and "
            "model.safetensors, or a hub name",
            param="model",
        )

    def _unusable(self, part: str, error: Exception) -> ModelError:
        return ModelError(f"the {part} of '{self.ref}' cannot be used: {_first_line(error)}", param="model")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
