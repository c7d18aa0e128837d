#!/usr/bin/env python3
"""`kvasir serve` as whoever runs it meets it.

    KVASIR=build/kvasir python3 test_operate.py [CLASS]        exit status 77: everything in CLASS was skipped

Metrics: /metrics. Config: files and variables. Tls: HTTPS. Commands: ps, stop, cache, completion; systemd. Load: what clients
that leave or do not read cost the others. KVASIR_TEST_COUNT=full asks for the large counts of Load.
"""
import http.client
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import unittest

from test_hardening import GOOD, post, raw, status_of
from test_server import A, HERE, KVASIR, LONG, WAIT_S, Case, Server, events, main, read_all

FULL = os.environ.get("KVASIR_TEST_COUNT") == "full"
SANITIZED = "asan" in KVASIR or "tsan" in KVASIR or bool(os.environ.get("KVASIR_SANITIZED"))


def program(*arguments, **options):
    return subprocess.run([KVASIR, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False, **options)


def metrics(server, prefix="kvasir:"):
    """Samples by name and labels, without model_name and engine."""
    answer = raw(server, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status_of(answer) == 200, answer[:300]
    text = answer.split(b"\r\n\r\n", 1)[1].decode()
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = re.sub(r'model_name="(?:[^"\\]|\\.)*",engine="0",?', "", name).replace("{}", "").replace(",}", "}")
            samples[name.removeprefix(prefix)] = float(value)
    return text, samples


class Metrics(Case):
    OPTIONS = ("--served-model-name", 'a"b\\c')

    def test_counts(self):
        before = metrics(self.server)[1]
        body = {"prompt": "m" * 100, "max_tokens": 20, "logit_bias": A, "n": 2}
        for _ in range(3):
            self.assertEqual(self.server.ask("/v1/completions", body)[0], 200)
        read_all(self.server.send({**body, "n": 1, "stream": True}))
        self.assertEqual(self.server.ask("/v1/completions", {})[0], 400)
        connection = self.server.send({"prompt": "x", "max_tokens": LONG, "stream": True, "logit_bias": A})
        connection.recv(100)
        for _ in range(100):  # the engine tells after each step
            now = metrics(self.server)[1]
            if now["num_requests_running"] + now["num_requests_paused"] == 1:  # nobody reads it
                break
            time.sleep(0.02)
        else:
            self.fail("a running request is not counted")
        connection.close()
        for _ in range(100):
            text, now = metrics(self.server)
            aborted = now['request_success_total{finished_reason="abort"}'] - before['request_success_total{finished_reason="abort"}']
            if now["num_requests_running"] + now["num_requests_paused"] == 0 and aborted:  # which is counted a moment later
                break
            time.sleep(0.05)
        grown = {name: value - before.get(name, 0) for name, value in now.items()}
        for name, value in {
                'request_success_total{finished_reason="length"}': 7, 'request_success_total{finished_reason="abort"}': 1,
                'request_success_total{finished_reason="error"}': 0, "time_to_first_token_seconds_count": 7,
                "e2e_request_latency_seconds_count": 7, "request_queue_time_seconds_count": 7, "request_generation_tokens_sum": 140,
                "request_max_num_generation_tokens_sum": 80, "request_params_n_sum": 7, "request_params_n_count": 4, "request_params_max_tokens_sum": 80,
                "request_inference_time_seconds_count": 7,
                "request_prompt_tokens_sum": 700, 'request_generation_tokens_bucket{le="10"}': 0, 'request_generation_tokens_bucket{le="20"}': 7,
                'request_generation_tokens_bucket{le="+Inf"}': 7, 'http_requests_total{route="/v1/completions",method="POST",status="200"}': 4,
                'http_requests_total{route="/v1/completions",method="POST",status="400"}': 1,
                'http_requests_total{route="/v1/completions",method="POST",status="499"}': 1}.items():
            self.assertEqual(grown.get(name), value, name)
        self.assertEqual(now["prompt_tokens_total"], now['prompt_tokens_by_source_total{source="local_compute"}'] +
                         now['prompt_tokens_by_source_total{source="local_cache_hit"}'])
        self.assertGreaterEqual(grown["prefix_cache_hits_total"], 3 * 99)
        self.assertGreaterEqual(grown["generation_tokens_total"], 140)
        self.assertEqual(now["inter_token_latency_seconds_count"], now["time_per_output_token_seconds_count"])
        self.assertTrue(0 < now["inter_token_latency_seconds_sum"] < 60)
        self.assertEqual((now["kv_cache_usage_perc"], now['kv_cache_bytes{state="held"}']), (0, 0))
        self.assertGreater(now['kv_cache_bytes{state="cached"}'], 0)
        self.assertGreater(now["process_open_fds"], 3)
        self.assertGreater(now["process_resident_memory_bytes"], 1 << 20)
        self.assertIn('model_name="a\\"b\\\\c"', text)
        for name, value in now.items():  # buckets are cumulative
            if "_bucket" in name:
                self.assertLessEqual(value, now[re.sub(r'le="[^"]*"', 'le="+Inf"', name)], name)

    @unittest.skipUnless(shutil.which("promtool"), "promtool is not here (Debian package prometheus)")
    def test_promtool(self):
        """The format is right, and so are the names, but for the colon that vLLM's have, too."""
        self.server.ask("/v1/completions", {"prompt": "x"})
        checked = subprocess.run(["promtool", "check", "metrics"], input=metrics(self.server)[0], capture_output=True, text=True, timeout=WAIT_S, check=False)
        told = (checked.stdout + checked.stderr).splitlines()
        self.assertEqual([line for line in told if "should not contain ':'" not in line], [])
        server = self.own("--metrics-prefix", "kvasir_")
        server.ask("/v1/completions", {"prompt": "x"})
        checked = subprocess.run(["promtool", "check", "metrics"], input=metrics(server)[0], capture_output=True, text=True, timeout=WAIT_S, check=False)
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))

    def test_prefixes(self):
        """What vLLM's own dashboard asks for is there under its prefix."""
        samples = metrics(self.own("--metrics-prefix", "vllm:"), "")[1]
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:e2e_request_latency_seconds_sum",
                     "vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count",
                     "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
                     "vllm:num_preemptions_total", "vllm:request_queue_time_seconds_sum", "vllm:request_prefill_time_seconds_sum",
                     "vllm:request_decode_time_seconds_sum", "vllm:request_prompt_tokens_count", "vllm:request_generation_tokens_count",
                     "vllm:request_inference_time_seconds_sum", "vllm:request_max_num_generation_tokens_sum", "vllm:request_params_n_sum",
                     "vllm:request_params_max_tokens_sum", "vllm:request_prefill_kv_computed_tokens_sum", "vllm:gpu_cache_usage_perc",
                     "vllm:gpu_prefix_cache_queries_total", "vllm:gpu_prefix_cache_hits_total"):
            self.assertIn(name, samples)
        for bad in ("a-b", "9a", "a b", "x" * 65, "\u00e9"):
            done = program("serve", self.model, "--port", "0", "--metrics-prefix", bad)
            self.assertEqual((done.returncode, done.stdout), (1, ""), bad)
            self.assertIn("--metrics-prefix", done.stderr)


class Config(Case):
    def file(self, text):
        path = os.path.join(self.folder, "serve.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def served(self, *options, **variables):
        """The model's name and length as the server tells them."""
        environment = {**os.environ, **variables}
        process = subprocess.Popen([KVASIR, "serve", "--port", "0", "--threads", "1", *options], stderr=subprocess.PIPE, text=True, env=environment)
        try:
            found = re.search(r":(\d+)/v1$", process.stderr.readline())
            connection = http.client.HTTPConnection("127.0.0.1", int(found.group(1)), timeout=WAIT_S)
            connection.request("GET", "/v1/models", headers={"Authorization": "Bearer k1"})
            answer = connection.getresponse()
            model = json.loads(answer.read())
            connection.close()
            return (answer.status, *((model["data"][0]["id"], model["data"][0]["max_model_len"]) if answer.status == 200 else ()))
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def test_weights(self):
        """Command line over variable over file over default; names with - or _, aliases too."""
        path = self.file(f"# a comment\nmodel: {self.model}\nserved_model_name: from-file\nmax-model-len: 1000\nlog-level: error\n")
        self.assertEqual(self.served("--config", path), (200, "from-file", 1000))
        self.assertEqual(self.served(f"--config={path}", KVASIR_SERVED_MODEL_NAME="from-variable"), (200, "from-variable", 1000))
        self.assertEqual(self.served("-a", "typed", "-c", "500", KVASIR_SERVED_MODEL_NAME="from-variable", KVASIR_CONFIG=path), (200, "typed", 500))
        self.assertEqual(self.served(self.model, KVASIR_CONFIG=path, KVASIR_CONTEXT="700"), (200, "from-file", 700))
        self.assertEqual(self.served(self.model, KVASIR_API_KEY="k2"), (401,))
        path = self.file(f"model: {self.model}\napi-key: [k0, k1]\napi-key-file: ~\n")
        self.assertEqual(self.served("--config", path)[0], 200)
        self.assertEqual(self.served("--config", path, "--api-key", "k2")[0], 401)
        self.assertEqual(self.served("--config", path, "--api-key", "k2", "--api-key", "k1")[0], 200)
        self.assertEqual(self.served(self.model, "--config", self.file("# nothing\n"))[0], 200)
        self.assertEqual(self.served(self.model, "--config", self.file(""))[0], 200)

    def test_bad_files(self):
        for text, says in (("nonsense: 1", "line 1: nonsense: there is no such option of serve"), ("host: a\nhost: b", "line 2: this option is there twice"),
                           ("a:\n  b: c", "a value is a scalar"), ("port: 70000", "line 1: port: '70000' is not in the range"), ("- a\n- b", "lines NAME: VALUE"),
                           ("port: [1, [2]]", "a list is of scalars"), ("host: &a x\nport: *a", "scalar"), ("config: x", "no such option"), ("help: true", "no such option"),
                           ("port: x", "not a whole number"), ("log-format: xml", "is not one of text|json"), ("share-cache-among-keys: maybe", "true"),
                           ("host: 'a", "line"), ("a: b: c", "line"), ("\tx", "line"), ("host: a\n---\nhost: b", "one document"), ("no-kv-cache: true", "no such option"), ("\x00", "line")):
            done = program("serve", self.model, "--port", "0", "--config", self.file(text))
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), (text, done.stderr))
            self.assertIn(says, done.stderr, text)
            self.assertIn("serve.yaml", done.stderr)
        done = program("serve", self.model, "--config", "/nowhere/at/all")
        self.assertEqual(done.returncode, 1, done.stderr)
        done = program("serve", self.model, env={**os.environ, "KVASIR_MAX_CONNECTIONS": "none"})
        self.assertEqual((done.returncode, done.stderr.count("KVASIR_MAX_CONNECTIONS")), (2, 1), done.stderr)


@unittest.skipUnless(shutil.which("openssl"), "the openssl program is not here")
class Tls(Case):
    def certificate(self):
        cert, key = os.path.join(self.folder, "cert.pem"), os.path.join(self.folder, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True, timeout=WAIT_S)
        return cert, key

    def test_https(self):
        cert, key = self.certificate()
        server = self.own("--ssl-certfile", cert, "--tls-key", key)
        self.assertIn("https://127.0.0.1:", server.line)
        context = ssl.create_default_context(cafile=cert)

        def secure():
            return context.wrap_socket(server.connect(), server_hostname="localhost")
        connection = secure()
        body = json.dumps({"prompt": "x", "max_tokens": 500, "stream": True, "logit_bias": A}).encode()
        for _ in range(2):  # kept
            connection.sendall(post(body))
            data = b""
            while b"[DONE]" not in data:
                data += connection.recv(65536)
            self.assertEqual(data.count(b'"text":"a'), data.count(b'data: {"id"') - 1)
        connection.close()
        for close in (lambda c: c.close(), lambda c: (c.unwrap(), c.close())):  # whoever leaves frees what it held
            leaving = secure()
            leaving.sendall(post(json.dumps({"prompt": "x", "max_tokens": LONG, "stream": True, "logit_bias": A}).encode()))
            leaving.recv(1000)
            try:
                close(leaving)
            except (ssl.SSLError, OSError):
                leaving.close()
        for _ in range(100):
            connection = secure()
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = b""
            while piece := connection.recv(65536):
                text += piece
            connection.close()
            if re.search(rb"num_requests_running\{[^}]*\} 0\n", text):
                break
            time.sleep(0.05)
        else:
            self.fail("an answer goes on that nobody reads")
        self.assertEqual(raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").count(b" 200 "), 0)  # plain HTTP to it
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        try:
            old.maximum_version = ssl.TLSVersion.TLSv1_1
            with self.assertRaises((ssl.SSLError, OSError)):
                old.wrap_socket(server.connect())
        except ValueError:
            pass  # this OpenSSL cannot even ask for it
        url = f"https://localhost:{server.port}"
        self.assertEqual([program("ps", "-q", "--url", url, *options).returncode for options in ((), ("--tls-ca", cert))], [1, 0])
        server.signal()
        self.assertEqual(server.end(), 0)

    def test_bad_files(self):
        cert, key = self.certificate()
        other = os.path.join(self.folder, "other.pem")
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", other], check=True, capture_output=True, timeout=WAIT_S)
        for options, says in ((("--tls-cert", "/nowhere"), "/nowhere"), (("--tls-cert", cert, "--tls-key", "/nowhere"), "/nowhere"), (("--tls-key", key), "--tls-cert"),
                              (("--tls-cert", key, "--tls-key", key), "certificate"), (("--tls-cert", cert, "--tls-key", cert), "key"), (("--tls-cert", cert, "--tls-key", other), "key")):
            done = program("serve", self.model, "--port", "0", *options)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
            self.assertIn(says, done.stderr)


class Commands(Case):
    def ask(self, *arguments, server=None, key=None):
        return program(*arguments, "--url", f"http://127.0.0.1:{(server or self.server).port}", *(("--api-key", key) if key else ()))

    def test_ps(self):
        self.assertEqual((self.ask("ps", "-q").returncode, self.ask("ps", "-q").stdout), (0, ""))
        running = self.server.send({"prompt": "x" * 50, "max_tokens": LONG, "stream": True, "n": 2, "logit_bias": A})
        running.recv(2000)
        time.sleep(0.3)
        told = json.loads(self.ask("ps", "-o", "json").stdout)
        request = told["requests"][0]
        self.assertEqual((request["route"], request["phase"], request["answers"], request["prompt_tokens"], request["key"]),
                         ("/v1/completions", "decode", 2, 50, None))
        self.assertGreater(request["output_tokens"], 1)
        self.assertGreater(request["age_s"], 0.2)
        lines = self.ask("ps").stdout.splitlines()
        self.assertEqual(len(lines), 2)
        self.assertIn(request["id"], lines[1])
        running.close()
        for _ in range(100):
            if not json.loads(self.ask("ps", "-o", "json").stdout)["requests"]:
                break
        else:
            self.fail("a request whose client is gone is still there")

    def test_cache(self):
        text = "handbook " * 40
        pinned = self.ask("cache", "pin", "book", text)
        self.assertEqual(pinned.returncode, 0, pinned.stderr)
        self.assertIn("book", pinned.stdout)
        self.assertEqual(self.ask("cache", "pin", "chat", "--system", "You are kind.").returncode, 0)
        pins = json.loads(self.ask("cache", "ls", "-o", "json").stdout)["pins"]
        self.assertEqual([(pin["name"], pin["tokens"]) for pin in pins], [("book", len(text)), ("chat", len("system: You are kind.\nassistant: "))])
        _, _, answer = self.server.ask("/v1/completions", {"prompt": text + "?", "max_tokens": 1})
        self.assertEqual(answer["usage"]["prompt_tokens_details"]["cached_tokens"], len(text))
        stat = json.loads(self.ask("cache", "stat", "-o", "json").stdout)
        self.assertEqual(stat["bytes_pinned"], sum(pin["bytes"] for pin in pins))
        self.assertIn("hits", self.ask("cache", "stat").stdout)
        self.assertEqual(self.ask("cache", "drop", "book").returncode, 0)
        done = self.ask("cache", "drop", "book")
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1))
        self.assertIn("there is no pin named 'book'", done.stderr)
        self.assertEqual(self.ask("cache", "drop", "chat").returncode, 0)
        for arguments in (("cache", "pin", "x"), ("cache", "pin", "x", "y", "z"), ("cache", "drop"), ("cache",), ("ps", "x")):
            self.assertEqual(self.ask(*arguments).returncode, 2, arguments)
        for body in ({}, {"name": ""}, {"name": 5}, {"name": "x"}, {"name": "x" * 129, "prompt": "a"}, {"name": "x", "prompt": ""}, {"name": "x", "messages": {}}):
            status, _, answer = self.server.ask("/kv/pins", body)
            self.assertEqual((status, bool(answer["error"]["message"])), (400, True), body)

    def test_who_may(self):
        file = os.path.join(self.folder, "keys")
        with open(file, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as keys:
            keys.write("sk-user user\nsk-admin admin\n")
        server = self.own("--api-key-file", file)
        for command in (("ps",), ("cache", "stat"), ("cache", "ls"), ("cache", "drop", "x"), ("stop",)):
            self.assertIn("401", self.ask(*command, server=server).stderr, command)
            self.assertIn("403", self.ask(*command, server=server, key="sk-user").stderr, command)
        self.assertEqual(self.ask("ps", "-q", server=server).returncode, 0)
        self.assertEqual(self.ask("ps", server=server, key="sk-admin").returncode, 0)
        self.assertEqual(self.ask("cache", "pin", "p", "some text", server=server, key="sk-admin").returncode, 0)
        self.assertEqual(self.ask("stop", server=server, key="sk-admin").returncode, 0)
        self.assertEqual(server.end(10), 0)

    def test_stop_lets_answers_end(self):
        server = self.own()
        connection = server.send({"prompt": "x", "max_tokens": 2000, "stream": True, "logit_bias": A})
        connection.recv(17)
        self.assertEqual(self.ask("stop", server=server).returncode, 0)
        data = b""
        while piece := connection.recv(65536):
            data += piece
            if b"[DONE]" in data:
                break
        self.assertIn(b'"finish_reason":"length"', data)
        self.assertEqual(server.end(), 0)
        done = self.ask("ps", server=server)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1))
        self.assertIn("--url", done.stderr)

    def test_no_kvasir_server(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()

            def answer():
                connection = listener.accept()[0]
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                connection.close()
            thread = threading.Thread(target=answer)
            thread.start()
            done = program("ps", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}/")
            thread.join()
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no kvasir server", done.stderr)
        self.assertEqual(program("ps", "--url", "file:///etc/passwd").stdout, "")

    def test_completion(self):
        for shell, words in (("bash", ("--max-num-seqs", "cache", "complete -o filenames -F _kvasir kvasir")), ("zsh", ("--max-num-seqs", "#compdef kvasir", "cache stat"))):
            script = program("completion", shell)
            self.assertEqual(script.returncode, 0)
            for word in words:
                self.assertIn(word, script.stdout)
            if shutil.which(shell):
                checked = subprocess.run([shell, "-n", "-c", script.stdout] if shell == "bash" else [shell, "-f", "-n"], input=script.stdout, capture_output=True, text=True,
                                         timeout=WAIT_S, check=False)
                self.assertEqual((checked.returncode, checked.stderr), (0, ""), shell)
        self.assertEqual(program("completion", "fish").returncode, 2)
        if shutil.which("bash"):
            words = subprocess.run(["bash", "-c", program("completion", "bash").stdout + "\nCOMP_WORDS=(kvasir cache '') COMP_CWORD=2; _kvasir; echo ${COMPREPLY[@]}"],
                                   capture_output=True, text=True, timeout=WAIT_S, check=False).stdout.split()
            self.assertEqual(words[:4], ["stat", "ls", "pin", "drop"])

    def test_notify(self):
        """Type=notify: ready when it answers, stopping when it stops."""
        path = os.path.join(self.folder, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.settimeout(WAIT_S)
            process = subprocess.Popen([KVASIR, "serve", self.model, "--port", "0"], stderr=subprocess.PIPE, text=True, env={**os.environ, "NOTIFY_SOCKET": path})
            self.assertEqual(manager.recv(100), b"READY=1")
            process.send_signal(signal.SIGTERM)
            self.assertEqual(manager.recv(100), b"STOPPING=1")
            self.assertEqual(process.wait(WAIT_S), 0)
            process.stderr.close()

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not here")
    def test_unit(self):
        with open(os.path.join(HERE, "../../packaging/kvasir.service.in"), encoding="utf-8") as file:
            text = file.read()
        path = os.path.join(self.folder, "kvasir.service")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("@CMAKE_INSTALL_FULL_BINDIR@/kvasir", KVASIR))
        checked = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=WAIT_S, check=False)
        self.assertEqual([line for line in (checked.stdout + checked.stderr).splitlines() if "kvasir" in line], [])
        checked = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", path], capture_output=True, text=True, timeout=WAIT_S, check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout[-500:] + checked.stderr)


def delta_of(event):
    """The text that an event of a stream adds."""
    event = json.loads(event)
    if event.get("type") == "response.output_text.delta":
        return event["delta"]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in event.get("choices", ()))


SMALL = {"SO_RCVBUF": 8192}  # so that sockets hold little, and an answer not as a whole


def read_late(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return read_all(connection)


class Load(Case):
    """Clients that leave at any moment, and clients that do not read."""
    DROPPED = 10000 if FULL else 300
    SLOW = 1000 if FULL else 100

    @classmethod
    def setUpClass(cls):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        super().setUpClass()

    def drop(self, generator):
        """One request whose client leaves: before its end, after it, or somewhere in the answer."""
        kind = generator.randrange(6)
        body = json.dumps({"prompt": "d" * generator.randrange(1, 3000), "max_tokens": generator.choice((1, 10, LONG)), "logit_bias": A,
                           "stream": bool(generator.randrange(2)), "n": generator.choice((1, 1, 3)), "cache_salt": "drop"}).encode()
        data = post(body)
        connection = self.server.connect()
        if kind == 0:
            data = data[:generator.randrange(len(data))]
        connection.sendall(data)
        if kind > 2:
            connection.settimeout(generator.random() * 0.02 + 0.001)
            try:
                connection.recv(generator.choice((1, 1000, 65536)))
            except OSError:
                pass
        if kind == 5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        self.server.connections.remove(connection)

    def beside_the_cache(self):
        now = metrics(self.server)[1]
        return self.server.memory() - sum(now[f'kv_cache_bytes{{state="{state}"}}'] for state in ("mapped", "metadata", "swapped"))

    def settled(self):
        for _ in range(400):
            now = metrics(self.server)[1]
            if now["num_requests_running"] == now["num_requests_waiting"] == 0 and now["http_connections"] <= 1:
                return now
            time.sleep(0.05)
        self.fail(f"not all is let go of: {now['num_requests_running']} run, {now['num_requests_waiting']} wait, {now['http_connections']} connections")

    def test_dropped_requests_leave_nothing(self):
        generator = random.Random(7)
        self.server = self.own("--kv-cache-memory", "4MiB")  # soon full of what stays cached
        for _ in range(100 if SANITIZED else max(3000, self.DROPPED)):
            self.drop(generator)
        for last in (False, False, True):  # what is lost grows every time; what an allocator keeps for later does not
            before, memory = self.settled(), self.server.memory()
            for _ in range(self.DROPPED):
                self.drop(generator)
            after = self.settled()
            for name in ('kv_cache_bytes{state="held"}', 'kv_cache_bytes{state="pinned"}', "process_open_fds"):
                self.assertEqual(after[name], before[name], name)
            if SANITIZED or self.server.memory() < 1.01 * memory:  # sanitizers keep what was freed
                break
            self.assertFalse(last, f"{self.server.memory() - memory} bytes more, three times")
        self.assertEqual(self.server.ask("/v1/completions", {"prompt": "x", "max_tokens": 1})[0], 200)

    def test_who_leaves_gives_back(self):
        """In the queue, in prefill, in decode: blocks are let go of at once, whoever else runs."""
        server = self.own("--max-num-seqs", "2", "--max-num-batched-tokens", "16")
        readers = []

        def runs(prompt):
            """An answer that goes on: who does not read it loses his place to the others."""
            connection = server.send({"prompt": prompt, "max_tokens": LONG, "stream": True, "logit_bias": A})
            connection.recv(1000)

            def read():
                try:
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass
            readers.append(threading.Thread(target=read))
            readers[-1].start()
            return connection
        stays = runs("s")
        for phase, body in (("decode", {"prompt": "d" * 999, "max_tokens": LONG}), ("prefill", {"prompt": "p" * 60000, "max_tokens": 1}),
                            ("queue", {"prompt": "q", "max_tokens": LONG})):
            blocker = runs("b") if phase == "queue" else None
            leaves = server.send({**body, "stream": True, "logit_bias": A})
            for _ in range(200):
                told = json.loads(program("ps", "-o", "json", "--url", f"http://127.0.0.1:{server.port}").stdout)["requests"]
                if phase in [request["phase"] for request in told] and (phase != "decode" or len(told) == 2):
                    break
            else:
                self.fail(f"no request is in {phase}: {told}")
            leaves.close()
            if blocker:
                blocker.shutdown(socket.SHUT_RDWR)
            began = time.monotonic()
            while True:
                now, told = server.ask("/kv/stats")[2], server.ask("/requests")[2]["requests"]
                if (now["running"], now["waiting"], len(told)) == (1, 0, 1) and now["blocks_held"] <= told[0]["output_tokens"] / now["block_size"] + 8:  # which is told a moment later
                    break
                self.assertLess(time.monotonic() - began, 2, (phase, now, told))
        stays.shutdown(socket.SHUT_RDWR)
        for reader in readers:
            reader.join()

    def test_overload(self):
        """Fifty times what may run and wait: most are told to come again, all others are answered, memory stays."""
        server = self.own("--max-num-seqs", "2", "--max-waiting", "8")
        body = json.dumps({"prompt": "o" * 2000, "max_tokens": 50, "logit_bias": A}).encode()
        memory = server.memory()
        connections = []
        for _ in range(500):
            connection = server.connect()
            connection.sendall(post(body, "Connection: close"))
            connections.append(connection)
        answers = [b"".join(iter(lambda c=connection: c.recv(65536), b"")) for connection in connections]
        statuses = [status_of(answer) for answer in answers]
        self.assertEqual(set(statuses), {200, 429})
        self.assertGreaterEqual(statuses.count(200), 10)
        for answer in answers:
            if status_of(answer) == 429:
                self.assertIn(b"Retry-After: ", answer)
                self.assertIn(b'"type":"rate_limit_error"', answer)
        if not SANITIZED:
            self.assertLess(server.memory() - memory, 64 << 20)

    def ttft(self, count):
        """Times to the first token of 8 clients that take turns, sorted."""
        times, lock = [], threading.Lock()

        def client(index):
            for i in range(count // 8):
                began = time.monotonic()
                connection = socket.create_connection(("127.0.0.1", self.server.port), WAIT_S)
                connection.sendall(post(json.dumps({"prompt": f"{index}.{i}" * 20, "max_tokens": 8, "stream": True, "logit_bias": A}).encode()))
                data = b""
                while b'"text":"a' not in data:
                    data += connection.recv(65536)
                took = time.monotonic() - began
                while b"[DONE]" not in data:
                    data += connection.recv(65536)
                connection.close()
                with lock:
                    times.append(took)
        threads = [threading.Thread(target=client, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(times)

    def tail_of_ttft(self):
        """The least of three 99th percentiles."""
        return min(sorted_times[int(len(sorted_times) * 0.99)] for sorted_times in (self.ttft(160) for _ in range(3)))

    def test_slow_readers_delay_nobody(self):
        """Their answers stand still until they are read: each costs little, however long it is, and the others do not notice."""
        tokens = 8000
        self.ttft(80)
        alone = self.tail_of_ttft()
        self.server.wait_until_idle()
        memory = self.beside_the_cache()
        body = {"prompt": "s", "max_tokens": tokens, "stream": True, "logit_bias": A}
        slow = []
        for _ in range(self.SLOW):
            slow.append(self.server.send(body, **SMALL))
        self.all_paused(self.SLOW)
        grown = self.beside_the_cache() - memory
        if not SANITIZED:  # once: what steps with many answers need, a huge page of the cache
            self.assertLess(grown, self.SLOW * (64 << 10) + (4 << 20))
        beside = self.tail_of_ttft()
        for connection in slow[:3]:
            self.assertEqual(sum(len(e["choices"][0]["text"]) for e in events(read_late(connection))), tokens)
        for connection in slow[3:]:
            connection.close()
        self.settled()
        after = self.tail_of_ttft()  # the machine may have become slower meanwhile
        print(f"p99 TTFT {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside {self.SLOW} slow readers, {after * 1e3:.1f} ms alone again; {grown / self.SLOW / 1024:.0f} KiB each")
        self.assertLess(beside, max(alone, after) * 1.2 + 0.02)

    def all_paused(self, count):
        began = time.monotonic()
        while (now := metrics(self.server)[1])["num_requests_paused"] < count:
            self.assertLess(time.monotonic() - began, WAIT_S, now)
            time.sleep(0.05)
        self.assertEqual((now["num_requests_running"], now["num_requests_waiting"]), (0, 0))

    def test_what_a_slow_reader_holds(self):
        """64 KiB at most, whatever the answer is made of; and nothing of it is lost."""
        text = {"prompt": "h" * 50, "stream": True, "logit_bias": A}
        chat = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "logit_bias": A}
        count, tokens = (40 if SANITIZED else 100), 8000  # more than sockets hold, however few events the tokens come in
        kinds = (  # the path, the body, how often the answer is in it
            ("/v1/completions", text, 1), ("/v1/completions", {**text, "n": 4}, 4), ("/v1/completions", {**text, "logprobs": 5, "return_token_ids": True}, 1),
            ("/v1/completions", {**text, "logit_bias": {"1": 100}}, 1),  # a control character, which JSON writes with six
            ("/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 20}, 1),
            ("/v1/chat/completions", {**chat, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}, 1),
            ("/v1/responses", {"input": "hi", "stream": True, "logit_bias": A}, 1))
        for path, body, answers in kinds:
            for last in (False, False, True):  # a huge page of the cache that is first written meanwhile is 2 MiB, but not every time
                each = self.held_by_each(path, body, answers, count, tokens)
                print(f"{path} {body}: {each / 1024:.0f} KiB")
                if SANITIZED or each < 64 << 10:
                    break
                self.assertFalse(last, body)

    def held_by_each(self, path, body, answers, count, tokens):
        limit = "max_output_tokens" if "input" in body else "max_tokens"
        server = self.server = self.own("--max-num-seqs", "8", "--max-waiting", "1000")
        for connection in [server.send({**body, limit: 50}, path) for _ in range(16)]:
            read_all(connection)  # from now on steps with many answers need no more memory
        self.settled()
        memory = self.beside_the_cache()
        slow = [server.send({**body, limit: tokens}, path, **SMALL) for _ in range(count)]
        self.all_paused(count * answers)
        each = (self.beside_the_cache() - memory) / count
        told = "".join(map(delta_of, re.findall(rb"^data: (\{.*\})$", read_late(slow.pop()), re.M)))
        self.assertEqual(told, ("a" if body["logit_bias"] is A else "\x01") * tokens * answers)
        for connection in slow:
            connection.close()
        self.settled()
        server.close()
        return each


if __name__ == "__main__":
    main()
