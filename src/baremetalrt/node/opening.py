"""What of a model can load before the engine is imported: header and vocabulary.

`bmrt run` is judged by its first token. The C library loads a vocabulary without the interpreter lock,
in the time that Python takes to import numpy and the rest; so nothing imported here may import those.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from baremetalrt.native.allocator import return_freed
from baremetalrt.native.vocabulary_guard import check_vocabulary
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel


class Opening:
    """A model whose header is read and whose vocabulary has begun to load, in a thread of its own."""

    def __init__(self, stored: StoredModel, file: GGUFFile | None = None) -> None:
        """Reads the header, unless it is given; raises what `GGUFFile.open` raises."""
        self.stored = stored
        thread = ThreadPoolExecutor(1, thread_name_prefix="opening")
        try:
            self._tokenizer: Future[Tokenizer] = thread.submit(_load_tokenizer, stored.path)
            self.file = file or GGUFFile.open(stored.path)
            # What loading a vocabulary has left behind is half of what a small model's process holds.
            self._tidied = thread.submit(_give_back, self.file)
        finally:
            # No other work is given to it; it ends by itself.
            thread.shutdown(wait=False)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, once it is loaded; raises what `check_vocabulary` raises."""
        return self._tokenizer.result()

    def settle(self) -> None:
        """Returns once the tokenizer is loaded, and what that took is given back."""
        self._tokenizer.result()
        self._tidied.result()


def _load_tokenizer(path: Path) -> Tokenizer:
    # libllama ends the process on some vocabularies.
    check_vocabulary(path)
    return Tokenizer(path)


def _give_back(file: GGUFFile) -> None:
    file.give_back_arrays()
    return_freed()
