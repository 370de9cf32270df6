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
    """A model whose header is read and whose vocabulary has begun to load, in a thread of its own."""

    def __init__(self, stored: StoredModel, file: GGUFFile | None = None) -> None:
        """Reads the header, unless it is given; raises what `GGUFFile.open` raises."""
        self.stored = stored
        threads = ThreadPoolExecutor(2, thread_name_prefix="opening")
        try:
            checked = threads.submit(check_vocabulary, stored.path)
            self.file = file or GGUFFile.open(stored.path)
            self._tokenizer: Future[Tokenizer] = threads.submit(self._load_tokenizer, checked)
        finally:
            # No thread is started after these; they end by themselves.
            threads.shutdown(wait=False)

    def _load_tokenizer(self, checked: Future[None]) -> Tokenizer:
        checked.result()
        return Tokenizer(self.file.path)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, once it is loaded; raises what `check_vocabulary` raises."""
        return self._tokenizer.result()
