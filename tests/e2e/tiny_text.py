"""A model of zeros that reads and writes text: a llama of one layer whose 256 tokens are the 256 bytes. Without a bias every
token is as probable as any other; with one, a test says what comes."""
import gguf_file


def byte_tokens():
    """The bytes in the spelling of GPT-2's vocabulary, by id: token n is byte n."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte if byte in plain else 256 + others.index(byte)) for byte in range(256)]


def write(path, context):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    gguf_file.llama(path, vocabulary=256, **{
        "llama.context_length": context, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": byte_tokens(), "tokenizer.ggml.merges": ["a b"], "tokenizer.chat_template": template})
