"""Writes vectors.txt: random blocks of every number format and what gguf-py's dequantize() makes of them.

A line: format, the file's bytes in hex, the expected f32 (little-endian) in hex. Needs the PyPI packages gguf and numpy.
"""
import os

import gguf
import numpy

F16_AT = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
random = numpy.random.default_rng(1)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors.txt"), "w") as out:
    for name in ["F16", "BF16", *F16_AT]:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = 2 if elements > 1 else 32
        blocks = random.integers(0, 256, (count, size), dtype=numpy.uint8)
        for at in F16_AT.get(name, []):
            blocks[:, at:at + 2] = random.normal(0, 0.1, (count, 1)).astype(numpy.float16).view(numpy.uint8)
        if elements == 1:  # values near one, then a zero, a negative zero and a subnormal
            values = random.normal(0, 1, count).astype(numpy.float32)
            values[:3] = [0.0, -0.0, 3e-6 if name == "F16" else 1e-39]
            bits = values.astype(numpy.float16).view(numpy.uint16) if name == "F16" else (values.view(numpy.uint32) >> 16)
            blocks = bits.astype(numpy.uint16).view(numpy.uint8).reshape(count, size)
        expected = gguf.quants.dequantize(blocks.reshape(1, -1), kind).astype("<f4")
        out.write(f"{name} {blocks.tobytes().hex()} {expected.tobytes().hex()}\n")
