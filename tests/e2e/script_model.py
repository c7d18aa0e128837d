"""A model that answers what a test wants: the last byte of its prompt chooses one of a few texts, which it then says, and ends.

Layers are zeros, so that a token's row is its embedding: it is 1 in one place, its state. The output matrix turns each state into the
token that comes next. Every text is cut into pieces of a few bytes, one a token, each different from all other tokens.
"""
import struct

import gguf_file
import tiny_text

STATES = 512
HALF = struct.Struct("<e")
TEMPLATE = ("{% if tools %}tools: {{ tools | tojson }} <tool_call>\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
            "{% for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}"
            "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}")


def spelled(data):
    """Bytes as GPT-2's vocabulary spells them."""
    return "".join(tiny_text.byte_tokens()[byte] for byte in data)


def cut(text, taken):
    """Pieces of at least two bytes that are not in `taken`, and from now on are."""
    data, pieces = text.encode(), []
    while data:
        length = 2 + len(pieces) % 3
        while length < len(data) and data[:length] in taken:
            length += 1
        if len(data) - length < 2 or data[length:] in taken:
            length = len(data)
        assert data[:length] not in taken, text
        taken.add(data[:length])
        pieces.append(data[:length])
        data = data[length:]
    return pieces


def write(path, answers, context=4096, template=TEMPLATE):
    """answers: {last character of the prompt: text}."""
    tokens, follows, starts, taken = tiny_text.byte_tokens() + ["<end>"], {}, {}, set()
    state = 1  # 0 is that of every byte that chooses nothing
    state_of = {}
    for last, text in answers.items():
        starts[ord(last)] = state
        for piece in cut(text, taken):
            follows[state] = len(tokens)
            state += 1
            state_of[len(tokens)] = state
            tokens.append(spelled(piece))
        follows[state] = 256
        state += 1
    assert state <= STATES
    follows[0] = 256
    embedding, output = bytearray(2 * STATES * len(tokens)), bytearray(2 * STATES * len(tokens))
    for token in range(len(tokens)):
        HALF.pack_into(embedding, 2 * (token * STATES + state_of.get(token, starts.get(token, 0))), 1)
    for at, token in follows.items():
        HALF.pack_into(output, 2 * (token * STATES + at), 10)
    kinds = [3 if token == 256 else 1 for token in range(len(tokens))]  # control, normal
    gguf_file.llama(path, embedding=STATES, vocabulary=len(tokens),
                    data={"token_embd.weight": bytes(embedding), "output.weight": bytes(output),
                          "output_norm.weight": struct.pack(f"<{STATES}f", *[1] * STATES)}, **{
                        "llama.context_length": context, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
                        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": ["a b"],
                        "tokenizer.ggml.eos_token_id": 256, "tokenizer.chat_template": template})
