#!/usr/bin/env python3
"""The tiers below RAM as whoever runs the program meets them: a folder (--kv-disk), a server (--kv-remote).

    KVASIR=build/kvasir python3 test_tiers.py [CLASS]        exit status 77: everything in CLASS was skipped

Disk: a prompt once read is found after a restart, also after kill -9; damage, a full folder and one that vanishes cost no answer.
Remote: several servers share what one has read; a Redis that ends costs no answer. Text: the same answers, with a real model.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import gguf_file
import tiny_text
from test_operate import metrics, program
from test_server import KVASIR, Case, Server, cache_folder, main

PROMPT = "What was read once is not read again. " * 40
WHOLE = (len(PROMPT) - 1) // 32 * 32  # tokens in whole blocks
BODY = {"prompt": PROMPT, "max_tokens": 4, "logit_bias": {"97": 100}}


def cached(server, body=None):
    status, _, answer = server.ask("/v1/completions", body or BODY)
    assert (status, answer["choices"][0]["text"]) == (200, "aaaa"), answer
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def blobs(folder):
    return [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names if name.endswith(".kvb")]


class TierCase(Case):
    @staticmethod
    def write_model(path):
        """Of zeros, but large enough that reading a block is sooner done than computing it."""
        gguf_file.llama(path, layers=4, embedding=512, feed_forward=1024, vocabulary=256, **{
            "llama.context_length": 4096, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tiny_text.byte_tokens(), "tokenizer.ggml.merges": ["a b"]})

    def setUp(self):
        self.disk = tempfile.mkdtemp(prefix="kvasir-e2e-tier-")
        self.addCleanup(shutil.rmtree, self.disk, True)

    def found(self, *options):
        """What a new server finds, and the server: once more where a busy machine would compute sooner than read."""
        for _ in range(5):
            server = self.own(*options)
            was = cached(server)
            if not metrics(server)[1]["kv_tier_late_total"]:
                break
            self.stop(server)
        return was, server

    def stop(self, server):
        server.signal()
        self.assertEqual(server.end(), 0, server.stderr)


class Disk(TierCase):
    def test_restart(self):
        for _ in range(2):
            was, server = self.found("--kv-disk", self.disk)
            self.assertEqual(cached(server), len(PROMPT) - 1)  # from RAM, to the token
            samples = metrics(server)[1]
            self.assertEqual(samples['prompt_tokens_by_source_total{source="disk"}'], was)
            self.assertEqual(samples['kv_tier_refused_blocks_total{tier="disk"}'], 0)
            self.assertIn("disk", program("cache", "stat", "--url", f"http://127.0.0.1:{server.port}").stdout)
            self.stop(server)
        self.assertEqual(was, WHOLE)
        self.assertEqual(len(blobs(self.disk)), (len(PROMPT) + 3) // 32)
        for where, _, _ in os.walk(os.path.join(self.disk)):
            self.assertEqual(os.stat(where).st_mode & 0o077, 0, where)

    def test_killed(self):
        """What was read is there when a server is killed a moment later."""
        server = self.own("--kv-disk", self.disk)
        cached(server)
        for _ in range(200):
            if len(blobs(self.disk)) >= WHOLE // 32:
                break
            time.sleep(0.02)
        server.signal(signal.SIGKILL)
        server.end()
        self.assertEqual(self.found("--kv-disk", self.disk)[0], WHOLE)

    def test_damage(self):
        self.stop_after_one()
        for i, path in enumerate(sorted(blobs(self.disk))):
            with open(path, "r+b") as file:
                size = file.seek(0, 2)
                file.seek(i * 37 % size)
                byte = file.read(1)
                file.seek(i * 37 % size)
                if i % 3:
                    file.write(bytes([byte[0] ^ 1 << i % 8]))
                else:
                    file.truncate(size // 2)
        server = self.own("--kv-disk", self.disk)
        self.assertEqual(cached(server), 0)
        self.assertGreater(metrics(server)[1]['kv_tier_missed_blocks_total{tier="disk"}'], 0)
        self.stop(server)
        self.assertEqual(self.found("--kv-disk", self.disk)[0], WHOLE)  # written anew

    def test_small_and_vanished(self):
        server = self.own("--kv-disk", self.disk, "--kv-disk-size", "64KiB")
        cached(server)
        cached(server, {**BODY, "prompt": "other " + PROMPT})
        self.stop(server)
        self.assertLessEqual(sum(os.stat(path).st_size for path in blobs(self.disk)), 65536)
        server = self.own("--kv-disk", self.disk)
        cached(server)
        for _ in range(100):  # it may be writing there just now
            shutil.rmtree(self.disk, ignore_errors=True)
            if not os.path.exists(self.disk):
                break
        self.assertFalse(os.path.exists(self.disk))
        cached(server, {**BODY, "prompt": "another " + PROMPT})
        cached(server)
        self.stop(server)

    def stop_after_one(self):
        server = self.own("--kv-disk", self.disk)
        self.assertEqual(cached(server), 0)
        self.stop(server)
        self.assertTrue(blobs(self.disk))

    def test_run(self):
        """`kvasir run` finds what the last run has read; what cannot be a folder is refused."""
        for i in range(6):
            done = program("run", "-m", self.model, PROMPT, "--raw", "-n", "2", "--kv-stats", "-o", "json", "--kv-disk", self.disk)
            self.assertEqual(done.returncode, 0, done.stderr)
            told = json.loads(done.stdout)["kv"]
            if i and not told["fetches_late"]:
                break
        self.assertEqual(told["tiers"][0]["tokens"], WHOLE)
        done = program("run", "-m", self.model, "x", "--kv-disk", self.model)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn(self.model, done.stderr)


@unittest.skipUnless(shutil.which("redis-server"), "redis-server is not here (Debian package redis-server)")
class Remote(TierCase):
    def redis(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.disk],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return process, f"redis://127.0.0.1:{port}"
            except OSError:
                time.sleep(0.02)
        self.fail("redis-server does not answer")

    def test_shared(self):
        """One server's prompts are found by the next one, which puts them into its folder."""
        process, url = self.redis()
        first = self.own("--kv-remote", url)
        self.assertEqual(cached(first), 0)
        self.stop(first)
        was, second = self.found("--kv-remote", url, "--kv-disk", os.path.join(self.disk, "second"))
        self.assertEqual(was, WHOLE)
        told = metrics(second)[1]
        self.assertEqual(sum(told[f'prompt_tokens_by_source_total{{source="{name}"}}'] for name in ("remote", "disk")), WHOLE)
        process.kill()
        process.wait()
        self.assertEqual(cached(second, {**BODY, "prompt": "new " + PROMPT}), 0)
        self.assertEqual(cached(second), len(PROMPT) - 1)
        self.stop(second)
        was, third = self.found("--kv-disk", os.path.join(self.disk, "second"))
        self.assertEqual(was, WHOLE)
        self.assertEqual(metrics(third)[1]['prompt_tokens_by_source_total{source="disk"}'], WHOLE)


class Text(unittest.TestCase):
    """With a real model: the same text, computed or read."""
    MODEL = os.path.join(cache_folder(), "models", "smollm2.gguf")

    @unittest.skipUnless(os.path.exists(MODEL), "smollm2 is not here (scripts/fetch-model.sh smollm2)")
    def test_same_text(self):
        with tempfile.TemporaryDirectory() as disk:
            texts = []
            for more in ([], ["--kv-disk", disk], ["--kv-disk", disk]):
                done = program("run", "-m", self.MODEL, PROMPT[:1200] + " And then", "--raw", "-n", "24", "--temp", "0", "-o", "json", "--kv-stats", *more)
                self.assertEqual(done.returncode, 0, done.stderr)
                texts.append(json.loads(done.stdout))
            self.assertEqual(texts[0]["text"], texts[1]["text"])
            self.assertEqual(texts[0]["text"], texts[2]["text"])
            self.assertGreater(texts[2]["kv"]["tiers"][0]["tokens"], 100)


if __name__ == "__main__":
    main()
