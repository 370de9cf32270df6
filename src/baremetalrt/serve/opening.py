"""What of a model can load before the engine is imported: header and vocabulary.

`bmrt run` is judged by its first token. The C library loads a vocabulary without the interpreter lock,
in the time that Python takes to import numpy and the rest; so nothing imported here may import those.
"""

from concurrent.futures import Future, ThreadPoolExecutor

from baremetalrt.native.vocabulary_guard import check_vocabulary
from baremetalrt.session.tokenizer import Tokenizer
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel


class Opening:
    """A model that has begun to load, in threads of its own."""

    def __init__(self, stored: StoredModel) -> None:
        self.stored = stored
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="opening")
        self._file: Future[GGUFFile] = self._threads.submit(GGUFFile.open, stored.path)
        self._tokenizer: Future[Tokenizer] = self._threads.submit(self._load_tokenizer)
        # No thread is started after these two; they end by themselves.
        self._threads.shutdown(wait=False)

    def _load_tokenizer(self) -> Tokenizer:
        try:
            check_vocabulary(self.stored.path)
        finally:
            # libllama reads the header once more: it must be a sound one. What is wrong with the file
            # as a whole is said before what is wrong with its vocabulary.
            file = self._file.result()
        return Tokenizer(file.path)

    def file(self) -> GGUFFile:
        """The header, once it is read; raises what `GGUFFile.open` raises."""
        return self._file.result()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, once it is loaded."""
        return self._tokenizer.result()
