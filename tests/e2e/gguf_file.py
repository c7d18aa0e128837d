#!/usr/bin/env python3
"""Writes small GGUF files for tests: metadata and tensor headers as given, whether they make sense or not. Tensor data is
a hole in the file, so that a model of any size takes no disk. Reads nothing."""
import struct

U32, F32, TEXT, ARRAY = 4, 6, 8, 9
TENSOR_F32, TENSOR_F16 = 0, 1


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(content):
    if isinstance(content, str):
        return struct.pack("<I", TEXT) + text(content)
    if isinstance(content, float):
        return struct.pack("<If", F32, content)
    if isinstance(content, list) and isinstance(content[0], int):
        return struct.pack("<IIQ", ARRAY, U32, len(content)) + struct.pack(f"<{len(content)}I", *content)
    if isinstance(content, list):
        return struct.pack("<IIQ", ARRAY, TEXT, len(content)) + b"".join(text(item) for item in content)
    return struct.pack("<II", U32, content)


def write(path, metadata, tensors=(), version=3):
    """tensors: (name, [dimensions, innermost first], type[, data])."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, content in metadata.items():
        out += text(key) + value(content)
    offset, filled = 0, []
    for name, shape, kind, *data in tensors:
        filled += [(offset, piece) for piece in data]
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, offset)
        count = 1
        for size in shape:
            count *= size
        offset += (count * (4 if kind == TENSOR_F32 else 2) + 31) // 32 * 32
    with open(path, "wb") as file:
        file.write(out + b"\0" * (-len(out) % 32))
        begin = file.tell()
        file.truncate(begin + offset)
        for at, data in filled:
            file.seek(begin + at)
            file.write(data)


def llama(path, layers=1, embedding=32, feed_forward=64, vocabulary=64, data=None, **overrides):
    """A llama of zeros without a tokenizer. data: the bytes of tensors that are no zeros, by name; `output.weight` is f16."""
    metadata = {"general.architecture": "llama", "llama.block_count": layers, "llama.context_length": 128,
                "llama.embedding_length": embedding, "llama.feed_forward_length": feed_forward,
                "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
                "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": vocabulary}
    metadata.update(overrides)
    head = embedding // 2
    tensors = [("token_embd.weight", [embedding, vocabulary], TENSOR_F16), ("output_norm.weight", [embedding], TENSOR_F32)]
    for layer in range(layers):
        for name, shape in [("attn_q", [embedding, embedding]), ("attn_k", [embedding, head]),
                            ("attn_v", [embedding, head]), ("attn_output", [embedding, embedding]),
                            ("ffn_gate", [embedding, feed_forward]), ("ffn_up", [embedding, feed_forward]),
                            ("ffn_down", [feed_forward, embedding])]:
            tensors.append((f"blk.{layer}.{name}.weight", shape, TENSOR_F16))
        for name in ("attn_norm", "ffn_norm"):
            tensors.append((f"blk.{layer}.{name}.weight", [embedding], TENSOR_F32))
    data = data or {}
    if "output.weight" in data:
        tensors.append(("output.weight", [embedding, vocabulary], TENSOR_F16))
    write(path, metadata, [(*tensor, *([data[tensor[0]]] if tensor[0] in data else [])) for tensor in tensors])
