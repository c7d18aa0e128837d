#!/usr/bin/env python3
"""The folder of --kv-disk under hard use: servers that are killed in the middle of their work, and `kvasir cache` beside a server.

    KVASIR=build/kvasir python3 test_tier_folder.py [CLASS]        exit status 77: everything in CLASS was skipped

Killed: whatever a killed server left, the next one's answers are those without a folder, bit for bit. Kept: ls, stat, verify,
export and import. KVASIR_TEST_COUNT=full asks for many kills.
"""
import http.client
import json
import os
import random
import shutil
import signal
import struct
import tempfile
import threading
import time

import gguf_file
import tiny_text
from test_operate import FULL, metrics, program
from test_server import Case, main

LAYERS, EMBEDDING, FEED_FORWARD, VOCABULARY = 4, 512, 1024, 256


def random_weights(seed):
    """f16 numbers of either sign between 1/64 and 1/16 (norms: 1), so that every token's K and V count."""
    high = bytes((byte & 0x80) | 0x24 | (byte & 7) for byte in range(256))
    source, data = random.Random(seed), {}

    def matrix(name, rows, columns):
        noise = source.randbytes(2 * rows * columns)
        data[name] = bytes(byte for pair in zip(noise[::2], noise[1::2].translate(high)) for byte in pair)

    matrix("token_embd.weight", VOCABULARY, EMBEDDING)
    for layer in range(LAYERS):
        for name, rows, columns in (("attn_q", 512, 512), ("attn_k", 256, 512), ("attn_v", 256, 512), ("attn_output", 512, 512),
                                    ("ffn_gate", 1024, 512), ("ffn_up", 1024, 512), ("ffn_down", 512, 1024)):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            data[f"blk.{layer}.{name}.weight"] = struct.pack("<f", 1.0) * EMBEDDING
    data["output_norm.weight"] = struct.pack("<f", 1.0) * EMBEDDING
    return data


def prompts():
    """Some begin alike."""
    source = random.Random(11)
    words = ["".join(source.choice("abcdefghij") for _ in range(source.randint(2, 9))) for _ in range(400)]

    def text(count):
        return " ".join(source.choice(words) for _ in range(count))
    system = text(100)
    return [system + " " + text(60 + 20 * i) for i in range(4)] + [text(150) for _ in range(4)]


class FolderCase(Case):
    @staticmethod
    def write_model(path):
        gguf_file.llama(path, layers=LAYERS, embedding=EMBEDDING, feed_forward=FEED_FORWARD, vocabulary=VOCABULARY,
                        data=random_weights(5), **{
                            "llama.context_length": 4096, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
                            "tokenizer.ggml.tokens": tiny_text.byte_tokens(), "tokenizer.ggml.merges": ["a b"]})

    def setUp(self):
        self.disk = tempfile.mkdtemp(prefix="kvasir-e2e-folder-")
        self.addCleanup(shutil.rmtree, self.disk, True)

    def stop(self, server):
        server.signal()
        self.assertEqual(server.end(), 0, server.stderr)


def answer(server, prompt):
    """What a prompt is answered, with the numbers behind it; and how many of its tokens were found."""
    status, _, told = server.ask("/v1/completions", {"prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 3})
    assert status == 200, told
    return told["choices"][0], told["usage"]["prompt_tokens_details"]["cached_tokens"]


class Killed(FolderCase):
    def load(self, server, until_s, wrong):
        """Prompts in any order until the server is gone."""
        while time.monotonic() < until_s:
            i = random.randrange(len(self.prompts))
            try:
                told, _ = answer(server, self.prompts[i])
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                return
            if told != self.expected[i]:
                wrong.append((i, told, self.expected[i]))

    def test_in_the_middle_of_load(self):
        random.seed(3)
        self.prompts = prompts()
        self.expected = [answer(self.server, prompt)[0] for prompt in self.prompts]
        self.assertEqual(len({json.dumps(choice) for choice in self.expected}), len(self.prompts))  # the model tells them apart
        options = ("--kv-disk", self.disk, "--kv-disk-size", "6MiB", "--kv-cache-memory", "16MiB")
        found = 0
        for _ in range(200 if FULL else 8):
            server, wrong = self.own(*options), []
            i = random.randrange(len(self.prompts))
            told, cached = answer(server, self.prompts[i])  # the first, so what is found comes from the folder
            self.assertEqual(told, self.expected[i])
            found += cached
            until_s = time.monotonic() + 30
            clients = [threading.Thread(target=self.load, args=(server, until_s, wrong)) for _ in range(3)]
            for client in clients:
                client.start()
            time.sleep(random.uniform(0, 0.8))
            server.signal(signal.SIGKILL)
            server.end()
            for client in clients:
                client.join()
            self.assertEqual(wrong, [])
        self.assertGreater(found, 0)
        done = program("cache", "verify", "--kv-disk", self.disk, "-o", "json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(json.loads(done.stdout)["blobs"], 0)
        server = self.own(*options)
        for prompt, expected in zip(self.prompts, self.expected):
            self.assertEqual(answer(server, prompt)[0], expected)
        samples = metrics(server)[1]
        self.assertEqual(samples['kv_tier_bad_blocks_total{tier="disk"}'], 0)
        self.stop(server)


class Kept(FolderCase):
    def cache(self, command, *arguments, disk=None):
        done = program("cache", command, "--kv-disk", disk or self.disk, "-o", "json", *arguments)
        return done, json.loads(done.stdout) if done.stdout else None

    def test_beside_a_server(self):
        prompt = prompts()[0]
        expected = answer(self.server, prompt)[0]
        server = self.own("--kv-disk", self.disk)
        self.assertEqual(answer(server, prompt), (expected, 0))
        file, other = os.path.join(self.disk, "archive"), os.path.join(self.disk, "other")
        for _ in range(200):
            told = self.cache("stat")[1]
            if told["blobs"] >= (len(prompt) - 1) // 32:
                break
            time.sleep(0.05)
        listed = self.cache("ls")[1]["blobs"]
        self.assertGreaterEqual(len(listed), told["blobs"])
        self.assertTrue(all(len(blob["key"]) == 64 and 0 <= time.time() - blob["used_s"] < 600 for blob in listed))
        self.assertEqual([listed[0]["used_s"], listed[-1]["used_s"]], [max(b["used_s"] for b in listed), min(b["used_s"] for b in listed)])
        done, told = self.cache("verify")
        self.assertEqual((done.returncode, told["damaged"], told["unreadable"]), (0, 0, 0))
        done, told = self.cache("export", file)
        self.assertEqual((done.returncode, told["blobs"] >= len(listed)), (0, True))
        self.assertEqual(os.stat(file).st_mode & 0o777, 0o600)
        self.stop(server)
        # elsewhere, the prompt is found
        done, told = self.cache("import", file, disk=other)
        self.assertEqual((done.returncode, told["there"], told["damaged"]), (0, 0, 0))
        for _ in range(5):  # a busy machine may find computing sooner done
            again = self.own("--kv-disk", other)
            told, cached = answer(again, prompt)
            self.assertEqual(told, expected)
            self.stop(again)
            if cached == (len(prompt) - 1) // 32 * 32:
                break
        else:
            self.fail(f"only {cached} tokens were found")

    def test_damage_is_told(self):
        server = self.own("--kv-disk", self.disk)
        answer(server, prompts()[1])
        self.stop(server)
        paths = [os.path.join(where, name) for where, _, names in os.walk(self.disk) for name in names]
        with open(paths[0], "r+b") as blob:
            blob.truncate(os.stat(paths[0]).st_size - 1)
        done, told = self.cache("verify")
        self.assertEqual((done.returncode, told["blobs"], told["damaged"]), (1, len(paths) - 1, 1))
        self.assertIn("1 blobs were damaged and are removed", done.stderr)
        self.assertEqual(self.cache("verify")[0].returncode, 0)

    def test_bad_calls(self):
        none = os.path.join(self.disk, "none")
        for command in ("ls", "stat", "verify"):
            done, told = self.cache(command, disk=none)
            self.assertEqual((done.returncode, told, done.stderr.count("\n")), (1, None, 1))
            self.assertIn(none, done.stderr)
        self.assertFalse(os.path.exists(none))
        done, told = self.cache("import", __file__)
        self.assertEqual((done.returncode, told), (1, None))
        self.assertIn("is no file of `kvasir cache export`", done.stderr)
        for arguments in (("verify",), ("export", "x"), ("import", "x"), ("export", "--kv-disk", self.disk), ("verify", "--kv-disk", self.disk, "x")):
            self.assertEqual(program("cache", *arguments).returncode, 2, arguments)


if __name__ == "__main__":
    main()
