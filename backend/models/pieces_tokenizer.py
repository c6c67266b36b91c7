"""SentencePiece's tokenizer, whose pieces an encoder's file brings along: text -> ids of pieces of words."""

from sentencepiece import SentencePieceProcessor

from backend.errors import BadFile
from backend.models.weights import ModelFile

PIECES = "spiece_model"  # the tensor, uint8, that holds the model of the pieces


class PiecesTokenizer:
    """One instance serves any number of threads."""

    def __init__(self, file: ModelFile) -> None:
        """Raises: BadFile where the file has no pieces, or they are damaged."""
        path = file.header.path
        if PIECES not in file.header:
            remedy = "Use a file of this encoder that was made for ComfyUI: it brings its tokenizer along."
            raise BadFile(path, "no tokenizer is in it", remedy)
        pieces = file.tensor(PIECES).numpy().tobytes()
        try:
            self._pieces = SentencePieceProcessor(model_proto=pieces)
        except RuntimeError as error:
            raise BadFile(path, f"its tokenizer is damaged ({error})", "Download the file again.") from error

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without the mark at its end."""
        return list(self._pieces.encode(text))
