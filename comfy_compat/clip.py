"""ComfyUI's CLIP, as packs hold it: tokenising here, encoding in the shared engine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from backend.components import LoraUse, Weights
from backend.errors import UnsupportedOption
from backend.models.clip_tokenizer import END, START, ClipTokenizer
from backend.models.embeddings import load_embedding
from backend.models.prompt import Marks, Token, tokenize
from backend.ops import Chunks, EncodeText, Op
from backend.references import Clip
from backend.storage import Storage
from backend.types import Cond
from comfy_compat.engine import computed
from comfy_compat.patcher import ModelPatcher
from nodes.conditioning import embeddings_in

# ComfyUI's names of encoders against ours
KEYS = {"clip_l": "l", "clip_g": "g", "clip_h": "h"}
PARTS = {key: part for part, key in KEYS.items()}
_PAD = {"clip_l": END, "clip_g": 0, "clip_h": 0}
_WIDTHS = {"clip_l": 768, "clip_g": 1280, "clip_h": 1024}
Tokens = dict[str, list[list[tuple[Any, ...]]]]


class TextTokens(dict[str, Any]):
    """The tokens of a whole text, which they know: while nobody changes them, the text is encoded.

    So equal texts are encoded once for everybody, and encoders whose tokens nobody looks at need none here.
    """

    def __init__(self, text: str, tokens: Mapping[str, Any]) -> None:
        super().__init__(tokens)
        self.text = text
        self._made = _ids(self)

    @property
    def whole(self) -> bool:
        """They are as they were made, one for each encoder."""
        return self._made == _ids(self)


class CLIP:
    """A CLIP value."""

    def __init__(
        self,
        target: Any = None,
        embedding_directory: Any = None,
        no_init: bool = False,
        tokenizer_data: Any = None,
        parameters: int = 0,
        model_options: Any = None,
    ) -> None:
        if not no_init and target is not None:
            remedy = "Load text encoders by their files: comfy.sd.load_clip, or the server's own loaders."
            raise UnsupportedOption("comfy.sd.CLIP", "a network of its own", remedy)
        self._reference: Clip | None = None
        self._storage: Storage | None = None
        self.layer_idx: int | None = None
        self.use_clip_schedule = False
        self.apply_hooks_to_conds: Any = None
        self.patcher = ModelPatcher(None)
        self.patcher.is_clip = True

    @classmethod
    def of(cls, reference: Clip, storage: Storage) -> "CLIP":
        """The handle of a reference."""
        made = cls(no_init=True)
        made._reference, made._storage = reference, storage
        made.layer_idx = reference.stop_at
        return made

    @property
    def known(self) -> bool:
        """Whether there are encoders of the server's behind it."""
        return self._reference is not None

    @property
    def reference(self) -> Clip:
        """The server's text encoders behind it, as they are set now."""
        assert self._reference is not None
        return replace(self._reference, stop_at=self.layer_idx)

    def clone(self) -> "CLIP":
        made = self.__class__(no_init=True)
        vars(made).update(vars(self))
        made.patcher = self.patcher.clone()
        return made

    def with_lora(self, lora: Weights, strength: float) -> "CLIP":
        """Another handle, with a LoRA."""
        made = self.clone()
        made._reference = self.reference.with_lora(lora, strength)
        return made

    def with_loras(self, loras: Sequence[LoraUse]) -> "CLIP":
        made = self.clone()
        made._reference = replace(self.reference, loras=(*self.reference.loras, *loras))
        return made

    # -- tokens ------------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[str, ...]:
        """The encoders, by the server's names."""
        found = tuple(weights.part or "clip_l" for weights in self.reference.weights)
        return tuple(sorted(found, key=lambda part: part != "clip_g"))

    @property
    def tokenizer(self) -> "Tokenizers":
        return Tokenizers(self)

    @property
    def cond_stage_model(self) -> Any:
        return stage_model(self)

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        """Chunks of (id or embedding's vector, weight[, word]) by ComfyUI's name of the encoder."""
        made = {KEYS.get(part, part): self._tokenized(part, text, return_word_ids) for part in self.parts}
        return TextTokens(text, made)

    def _tokenized(self, part: str, text: str, words: bool) -> list[list[tuple[Any, ...]]]:
        if part not in KEYS:  # its tokens are nothing that packs take apart
            return [[(text, 1.0, 0) if words else (text, 1.0)]]
        storage = self._storage

        def vectors(name: str) -> Tensor | None:
            found = None if storage is None else storage.embedding(name)
            if found is None or storage is None:
                return None
            return load_embedding(str(storage.find("embeddings", found)), _WIDTHS[part], part)

        chunks = tokenize(text, _clip_tokenizer().ids, Marks(START, END, pad=_PAD[part]), vectors)
        return [[_token(token, words) for token in chunk] for chunk in chunks]

    # -- encoding ----------------------------------------------------------------------------------

    def encode(self, text: str) -> Tensor:
        return self._one(self._of_text(text)).tokens

    def encode_from_tokens(self, tokens: Any, return_pooled: Any = False, return_dict: bool = False) -> Any:
        """The tokens' encoding [1, T, C]; with the pooled one, or as a dict of `cond` and `pooled_output`."""
        made = self._one(self._op(tokens))
        if return_dict:
            return {"cond": made.tokens, "pooled_output": made.pooled, **made.options}
        return (made.tokens, made.pooled) if return_pooled else made.tokens

    def encode_from_tokens_scheduled(
        self,
        tokens: Any,
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> list[list[Any]]:
        """CONDITIONING."""
        made = self._one(self._op(tokens))
        options = {"pooled_output": made.pooled, **made.options, **(add_dict or {})}
        return [[made.tokens, options]]

    def _op(self, tokens: Any) -> EncodeText:
        if isinstance(tokens, TextTokens) and tokens.whole:
            return self._of_text(tokens.text)
        if not isinstance(tokens, Mapping):
            tokens = {KEYS.get(self.parts[0], self.parts[0]): tokens}
        texts = {PARTS.get(key, key): plain(chunks) for key, chunks in tokens.items()}
        return EncodeText(self.reference, "", tokens=texts)

    def _of_text(self, text: str) -> EncodeText:
        storage = self._storage
        return EncodeText(self.reference, text, () if storage is None else embeddings_in(text, storage))

    def _one(self, op: Op[Any]) -> Cond:
        conditions = computed(op)
        assert isinstance(conditions, tuple)
        first = conditions[0]
        assert isinstance(first, Cond)
        return first

    # -- the rest ----------------------------------------------------------------------------------

    def clip_layer(self, layer_idx: int) -> None:
        """Stop at a layer, counted from the end."""
        self.layer_idx = layer_idx

    def add_patches(
        self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        return self.patcher.add_patches(patches, strength_patch, strength_model)

    def add_hooks_to_dict(self, pooled_dict: dict[str, Any]) -> dict[str, Any]:
        return pooled_dict

    def load_model(self) -> ModelPatcher:
        """The engine loads what it needs."""
        return self.patcher

    def load_sd(self, sd: Any, full_model: bool = False) -> Any:
        raise UnsupportedOption(
            "clip.load_sd", len(sd), "Load text encoders by their files: comfy.sd.load_clip."
        )

    def get_sd(self) -> dict[str, Any]:
        raise UnsupportedOption("clip.get_sd", "", "The weights are in the workers; read the model's file.")

    def get_key_patches(self) -> dict[str, Any]:
        return {}


class Tokenizers:
    """`clip.tokenizer`: one tokenizer for each encoder, as `clip_l`, `clip_g`."""

    def __init__(self, clip: CLIP) -> None:
        self._clip = clip
        for part in clip.parts:
            if part in KEYS:
                setattr(self, part, PartTokenizer(clip, part))
        self.clip = f"clip_{KEYS.get(clip.parts[0], clip.parts[0])}"

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        return self._clip.tokenize(text, return_word_ids)

    def untokenize(self, token_weight_pair: Sequence[Any]) -> list[Any]:
        return [(pair, None) for pair in token_weight_pair]


class PartTokenizer:
    """The tokenizer of one encoder."""

    def __init__(self, clip: CLIP, part: str) -> None:
        self._clip, self._part = clip, part
        self.max_length = 77
        self.start_token, self.end_token, self.pad_token = START, END, _PAD[part]
        self.pad_with_end = part == "clip_l"
        self.pad_to_max_length = True
        self.tokens_start = 1
        self.embedding_identifier = "embedding:"
        self.embedding_key = part
        self.embedding_size = _WIDTHS[part]
        self.max_word_length = 8
        self.embedding_directory = None

    def tokenizer(self, text: str) -> dict[str, list[int]]:
        """As transformers' tokenizers answer."""
        return {"input_ids": [START, *_clip_tokenizer().ids(text), END]}

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> list[list[tuple[Any, ...]]]:
        return self._clip._tokenized(self._part, text, return_word_ids)


class StageModel:
    """`clip.cond_stage_model`: what the encoders make, together (`encode_token_weights`) and each alone."""

    def __init__(self, clip: CLIP) -> None:
        self._clip = clip
        for part in clip.parts:
            setattr(self, part, PartModel(clip, part))
        self.clip_name = KEYS.get(clip.parts[0], clip.parts[0])
        self.clip = f"clip_{self.clip_name}"
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """`layer`: where the encoders stop."""
        if options.get("layer") is not None:
            self._clip.layer_idx = options["layer"]

    def reset_clip_options(self) -> None:
        """The handle's own settings stand."""

    def clip_layer(self, layer_idx: int) -> None:
        self._clip.clip_layer(layer_idx)

    def reset_clip_layer(self) -> None:
        """As `reset_clip_options`."""

    def encode_token_weights(self, token_weight_pairs: Any) -> tuple[Tensor, Tensor | None]:
        made = self._clip._one(self._clip._op(token_weight_pairs))
        return made.tokens, made.pooled

    def to(self, *args: Any, **kwargs: Any) -> "StageModel":
        return self

    def state_dict(self) -> dict[str, Any]:
        return {}

    def named_parameters(self) -> list[Any]:
        return []


class SD1ClipModel(StageModel): ...


class SDXLClipModel(StageModel): ...


class SDXLRefinerClipModel(StageModel): ...


class PartModel:
    """One encoder of several."""

    def __init__(self, clip: CLIP, part: str) -> None:
        self._clip, self._part = clip, part
        self.layer_idx = clip.layer_idx
        self.num_layers = 12 if part == "clip_l" else 32
        self.max_length = 77

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        if options.get("layer") is not None:
            self._clip.layer_idx = options["layer"]

    def reset_clip_options(self) -> None:
        """The handle's own settings stand."""

    def encode_token_weights(self, token_weight_pairs: Any) -> tuple[Tensor, Tensor | None]:
        """(tokens [1, T, C], pooled) of this encoder alone, as it reads for the others' sake."""
        reference = self._clip.reference
        own = tuple(w for w in reference.weights if (w.part or "clip_l") == self._part)
        family = reference.family
        if family.startswith("sdxl"):
            family = "sdxl_refiner" if self._part == "clip_g" else "sdxl_l"
        alone = replace(reference, weights=own, family=family)
        made = self._clip._one(EncodeText(alone, "", tokens={self._part: plain(token_weight_pairs)}))
        return made.tokens, made.pooled


def stage_model(clip: CLIP) -> StageModel:
    """The kind of stage model that packs ask for with isinstance."""
    kinds = {"sdxl": SDXLClipModel, "sdxl_refiner": SDXLRefinerClipModel, "sd15": SD1ClipModel}
    return kinds.get(clip.reference.family, StageModel)(clip)


def plain(chunks: Sequence[Sequence[Sequence[Any]]]) -> Chunks:
    """Chunks of pairs, without the words' numbers. Raises: UnsupportedOption for tokens of no CLIP model."""
    for chunk in chunks:
        for token in chunk:
            if not isinstance(token[0], int | Tensor):
                remedy = (
                    "Encode the tokens as tokenize() gave them: those of other encoders than CLIP are whole."
                )
                raise UnsupportedOption("tokens", type(token[0]).__name__, remedy)
    return tuple(tuple((token[0], float(token[1])) for token in chunk) for chunk in chunks)


def _ids(tokens: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Which objects the tokens are."""
    return {key: [[id(token) for token in chunk] for chunk in chunks] for key, chunks in tokens.items()}


def _token(token: Token, words: bool) -> tuple[Any, ...]:
    return (token.value, token.weight, token.word) if words else (token.value, token.weight)


@cache
def _clip_tokenizer() -> ClipTokenizer:
    return ClipTokenizer()


__all__ = ["CLIP", "SD1ClipModel", "SDXLClipModel", "SDXLRefinerClipModel", "StageModel"]
