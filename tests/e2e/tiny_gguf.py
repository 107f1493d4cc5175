"""Writes a very small Llama with random weights: real inference, meaningless words.

    python tiny_gguf.py FILE
"""

import sys

import gguf
import numpy

WIDTH = 32
HEADS = 4
KEY_VALUE_HEADS = 2
FEED_FORWARD = 64
LAYERS = 1
CONTEXT = 1024
# Large enough to make the choice of the next token clear, small enough to stay finite.
SPREAD = 0.1


def vocabulary():
    """Pieces, scores and kinds: three control tokens, all bytes, the letters, and some words with their space."""
    control = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    octets = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    letters = ["\u2581", *map(chr, range(ord("a"), ord("z") + 1))]
    words = ["\u2581" + word for word in "the of star cloud dust light core field ring".split()]
    plain = [(piece, gguf.TokenType.NORMAL) for piece in letters + words]
    tokens = control + octets + plain
    scores = [0.0 if kind != gguf.TokenType.NORMAL else -float(place) for place, (_, kind) in enumerate(tokens)]
    return [piece.encode() for piece, _ in tokens], scores, [kind for _, kind in tokens]


def write(path):
    pieces, scores, kinds = vocabulary()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")

    random = numpy.random.default_rng(seed=7)
    weights = {
        "token_embd.weight": (len(pieces), WIDTH),
        "output.weight": (len(pieces), WIDTH),
    }
    norms = ["output_norm.weight"]
    for layer in range(LAYERS):
        inner = WIDTH // HEADS * KEY_VALUE_HEADS
        weights |= {
            f"blk.{layer}.attn_q.weight": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k.weight": (inner, WIDTH),
            f"blk.{layer}.attn_v.weight": (inner, WIDTH),
            f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_gate.weight": (FEED_FORWARD, WIDTH),
            f"blk.{layer}.ffn_up.weight": (FEED_FORWARD, WIDTH),
            f"blk.{layer}.ffn_down.weight": (WIDTH, FEED_FORWARD),
        }
        norms += [f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight"]
    for name, shape in weights.items():
        writer.add_tensor(name, random.normal(scale=SPREAD, size=shape).astype(numpy.float32))
    for name in norms:
        writer.add_tensor(name, numpy.ones(WIDTH, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(sys.argv[1])
