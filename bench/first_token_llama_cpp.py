"""llama.cpp from a cold process to its first token, with nothing in the way; prints that token.

The prompt comes rendered: libllama knows some chat templates by name and runs none.
"""

import ctypes as c
import sys

import llama_h
from baremetalrt.native.library import load_library


def main() -> None:
    path, prompt, context, num_threads = sys.argv[1:5]
    load_library()
    lib = llama_h.load()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    p = lib.llama_context_default_params()
    p.n_ctx = int(context)
    p.n_threads = p.n_threads_batch = int(num_threads)
    ctx = lib.llama_init_from_model(model, p)
    vocab = lib.llama_model_get_vocab(model)
    text = prompt.encode()
    tokens = (c.c_int32 * 4096)()
    n = lib.llama_tokenize(vocab, text, len(text), tokens, len(tokens), True, True)
    batch = lib.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for i in range(n):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = tokens[i], i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, i == n - 1
    lib.llama_decode(ctx, batch)
    token = lib.llama_sampler_sample(lib.llama_sampler_init_greedy(), ctx, -1)
    piece = c.create_string_buffer(256)
    n = lib.llama_token_to_piece(vocab, token, piece, len(piece), 0, True)
    sys.stdout.write(piece.raw[:n].decode("utf-8", "replace"))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
