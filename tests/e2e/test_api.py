#!/usr/bin/env python3
"""What OpenAI's and vLLM's APIs have beside plain answers, over sockets and through real clients.

    KVASIR=build/kvasir python3 test_api.py [CLASS]        exit status 77: everything in CLASS was skipped

The model says what a test wants (script_model.py), but for a few tests of what a real one does with tools.
"""
import asyncio
import base64
import contextlib
import importlib.util
import io
import json
import math
import os
import re
import struct
import subprocess
import sys
import textwrap
import time
import unittest

import script_model
from test_server import A, KVASIR, WAIT_S, Case, Server, cache_folder, events, main, openai, read_all

PYTHON_PATH = os.path.join(cache_folder(), "python")
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2]}}\n</tool_call>'
ARGUMENTS = '{"city": "Zürich", "days": [1, 2]}'
ANSWERS = {
    "1": "Let me look.\n" + CALL,
    "2": CALL + '\n<tool_call>{"name": "now", "arguments": {}}</tool_call>',
    "3": '<tool_call>{"name": "unheard_of", "arguments": {}}</tool_call> and more',
    "4": "Nothing to call here.",
    "6": '<tool_call>{"name": "now", "arguments": {}}</tool_call>\n' + "and so on, " * 40,
    "7": "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in ('{"name": "now", "arguments": {}}', '{"name": "get_weather", "arguments": {"city": "Bern"}}')),
    "?": "Air scatters blue light most.",
    "5": '{"name": "now", "parameters": {"zone": "UTC"}}',
}
TOOLS = [{"type": "function", "function": {"name": name, "description": "what it does", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}} for name in ("get_weather", "now")]


class Scripted(Case):
    @staticmethod
    def write_model(path):
        script_model.write(path, ANSWERS)

    def chat(self, text, server=None, **fields):
        messages = [{"role": "user", "content": text}]
        return (server or self.server).ask("/v1/chat/completions", {"messages": messages, "temperature": 0, **fields})

    def stream(self, text, path="/v1/chat/completions", **fields):
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "stream": True, **fields}
        return events(read_all(self.server.send(body, path)))


class Tools(Scripted):
    def test_calls(self):
        status, _, answer = self.chat("1", tools=TOOLS)
        choice = answer["choices"][0]
        self.assertEqual((status, choice["finish_reason"], choice["message"]["content"]), (200, "tool_calls", "Let me look."))
        call, = choice["message"]["tool_calls"]
        self.assertEqual((call["type"], call["function"]), ("function", {"name": "get_weather", "arguments": ARGUMENTS}))
        self.assertRegex(call["id"], "^call_[0-9a-f]{24}$")
        _, _, answer = self.chat("2", tools=TOOLS, tool_choice="auto", n=2)
        for choice in answer["choices"]:
            self.assertEqual((choice["finish_reason"], choice["message"]["content"]), ("tool_calls", None))
            self.assertEqual([call["function"]["name"] for call in choice["message"]["tool_calls"]], ["get_weather", "now"])
        self.assertEqual(len({call["id"] for choice in answer["choices"] for call in choice["message"]["tool_calls"]}), 4)
        choice = self.chat("2", tools=TOOLS, parallel_tool_calls=False)[2]["choices"][0]
        self.assertEqual(len(choice["message"]["tool_calls"]), 1)

    def test_one_call_is_enough(self):
        whole, cut = (self.chat("6", tools=TOOLS, parallel_tool_calls=parallel)[2] for parallel in (True, False))
        self.assertEqual(whole["choices"][0]["message"]["tool_calls"][0]["function"], cut["choices"][0]["message"]["tool_calls"][0]["function"])
        self.assertEqual((cut["choices"][0]["finish_reason"], cut["choices"][0]["message"]["content"]), ("tool_calls", None))
        self.assertLess(cut["usage"]["completion_tokens"], whole["usage"]["completion_tokens"])
        stream = self.stream("6", tools=TOOLS, parallel_tool_calls=False)
        self.assertEqual(stream[-1]["choices"][0]["finish_reason"], "tool_calls")

    def test_what_is_no_call_is_text(self):
        for text, fields in (("3", {"tools": TOOLS}), ("4", {"tools": TOOLS}), ("1", {}), ("1", {"tools": []}),
                             ("1", {"tools": TOOLS, "tool_choice": "none"}), ("5", {"tools": TOOLS})):
            choice = self.chat(text, **fields)[2]["choices"][0]
            self.assertEqual((choice["message"]["content"], choice["finish_reason"]), (ANSWERS[text], "stop"))
            self.assertNotIn("tool_calls", choice["message"])
        choice = self.chat("1", tools=TOOLS, max_tokens=12)[2]["choices"][0]  # cut in the middle of a call
        self.assertTrue(ANSWERS["1"].startswith(choice["message"]["content"]))
        self.assertEqual(choice["finish_reason"], "length")

    def test_stream(self):
        stream = self.stream("1", tools=TOOLS)
        choices = [event["choices"][0] for event in stream]
        deltas = [choice["delta"] for choice in choices]
        self.assertEqual("".join(delta.get("content") or "" for delta in deltas), "Let me look.")
        calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        self.assertEqual((calls[0]["index"], calls[0]["type"], calls[0]["function"]),
                         (0, "function", {"name": "get_weather", "arguments": ""}))
        self.assertTrue(all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in calls[1:]))
        self.assertEqual("".join(call["function"]["arguments"] for call in calls), ARGUMENTS)
        self.assertEqual([choice["finish_reason"] for choice in choices], [None] * (len(choices) - 1) + ["tool_calls"])
        stream = self.stream("2", tools=TOOLS)
        calls = [call for event in stream for call in event["choices"][0]["delta"].get("tool_calls", [])]
        self.assertEqual([(call["index"], call["function"]["name"]) for call in calls if "id" in call], [(0, "get_weather"), (1, "now")])
        stream = self.stream("3", tools=TOOLS)
        self.assertEqual("".join(event["choices"][0]["delta"].get("content", "") for event in stream), ANSWERS["3"])

    def test_calls_that_have_to_be_made(self):
        """Whatever the model would say: here a text without a call."""
        cities = {"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"], "additionalProperties": False,
                  "$defs": {"city": {"enum": ["Z\u00fcrich", "Bern"]}}}
        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": cities}}, {"type": "function", "function": {"name": "now"}}]
        llama = self.own("--tool-call-parser", "llama3_json")
        for server in (self.server, llama):
            for tool_choice, names, finish in (("required", ("get_weather", "now"), "tool_calls"),
                                               ({"type": "function", "function": {"name": "now"}}, ("now",), "stop"),
                                               ({"type": "function", "function": {"name": "get_weather"}}, ("get_weather",), "stop")):
                choice = self.chat("4", server, tools=tools, tool_choice=tool_choice, parallel_tool_calls=False)[2]["choices"][0]
                call, = choice["message"]["tool_calls"]
                self.assertEqual((choice["finish_reason"], choice["message"]["content"]), (finish, None))
                self.assertIn(call["function"]["name"], names)
                arguments = json.loads(call["function"]["arguments"])
                self.assertTrue(arguments.get("city") in ("Z\u00fcrich", "Bern") if call["function"]["name"] == "get_weather" else arguments == {})
        for parallel, names in ((True, ["now", "get_weather"]), (False, ["now"])):
            choice = self.chat("7", tools=tools, tool_choice="required", parallel_tool_calls=parallel)[2]["choices"][0]
            self.assertEqual(([call["function"]["name"] for call in choice["message"]["tool_calls"]], choice["message"]["content"], choice["finish_reason"]),
                             (names, None, "tool_calls"))
        choice = self.chat("7", tools=tools, tool_choice={"type": "function", "function": {"name": "now"}})[2]["choices"][0]
        self.assertEqual([call["function"]["name"] for call in choice["message"]["tool_calls"]], ["now"])
        stream = self.stream("4", tools=tools, tool_choice="required", parallel_tool_calls=False)
        self.assertTrue(any("tool_calls" in event["choices"][0]["delta"] for event in stream))
        self.assertFalse(any(event["choices"][0]["delta"].get("content") for event in stream))
        flat = [{"type": "function", **tool["function"]} for tool in tools]
        answer = self.server.ask("/v1/responses", {"input": "4", "tools": flat, "tool_choice": {"type": "function", "name": "now"}})[2]
        self.assertEqual([(item["type"], item["name"]) for item in answer["output"]], [("function_call", "now")])
        tools[0]["function"]["parameters"] = {"type": "object", "properties": {"x": {"not": {"type": "null"}}}}
        status, _, answer = self.chat("4", tools=tools, tool_choice="required")
        self.assertEqual((status, answer["error"]["param"]), (400, "tools"), answer)

    def test_calls_beside_structured_answers(self):
        """Either a call or an answer that satisfies the schema."""
        schema = {"$defs": {"mood": {"enum": ["good", "bad"]}}, "type": "object", "properties": {"mood": {"$ref": "#/$defs/mood"}},
                  "required": ["mood"], "additionalProperties": False}
        tools = [{"type": "function", "function": {"name": "now"}}]
        wanted = {"type": "json_schema", "json_schema": {"name": "m", "schema": schema}}
        kinds = set()
        for seed in range(40):
            choice = self.chat("4", tools=tools, response_format=wanted, temperature=100, seed=seed)[2]["choices"][0]
            calls = choice["message"].get("tool_calls")
            kinds.add(bool(calls))
            if calls:
                self.assertEqual(([call["function"] for call in calls], choice["message"]["content"]), ([{"name": "now", "arguments": "{}"}], None))
            else:
                self.assertIn(json.loads(choice["message"]["content"]), ({"mood": "good"}, {"mood": "bad"}))
        self.assertEqual(kinds, {True, False})
        choice = self.chat("4", tools=tools, tool_choice="required", response_format=wanted)[2]["choices"][0]
        self.assertEqual(choice["message"]["tool_calls"][0]["function"]["name"], "now")
        choice = self.chat("4", tools=tools, tool_choice="none", response_format=wanted)[2]["choices"][0]
        self.assertIn("mood", json.loads(choice["message"]["content"]))
        status, _, answer = self.chat("4", tools=tools, structured_outputs={"regex": "a"})
        self.assertEqual((status, answer["error"]["param"]), (400, "structured_outputs"))

    def test_other_formats(self):
        server = self.own("--tool-call-parser", "llama3_json")
        message = self.chat("5", server, tools=TOOLS)[2]["choices"][0]["message"]
        self.assertEqual(message["tool_calls"][0]["function"], {"name": "now", "arguments": '{"zone": "UTC"}'})
        server = self.own("--tool-call-parser", "none")
        status, _, answer = self.chat("5", server, tools=TOOLS)
        self.assertEqual((status, answer["error"]["param"]), (400, "tools"))

    def test_messages_with_calls(self):
        """They reach the template: arguments as an object, the result as a message of its own."""
        call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}
        messages = [{"role": "developer", "content": "d"}, {"role": "user", "content": "u"},
                    {"role": "assistant", "content": None, "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "12:00 4"}]}]
        status, _, answer = self.server.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
        rendered = 'system: d\nuser: u\nassistant: nonenow({"zone": "UTC"})\ntool: 12:00 4'
        self.assertEqual((status, answer["usage"]["prompt_tokens"]), (200, len(rendered)))
        for broken in ({"function": {"name": "now", "arguments": {}}}, {"function": {"arguments": "{}"}}, 5):
            messages[2]["tool_calls"] = [broken]
            status, _, answer = self.server.ask("/v1/chat/completions", {"messages": messages})
            self.assertEqual((status, answer["error"]["param"]), (400, "messages"))

    def test_bad_fields(self):
        for param, fields in [("tools", {"tools": "x"}), ("tools", {"tools": [{"type": "web_search"}]}), ("tools", {"tools": TOOLS * 65}),
                              ("tool_choice", {"tools": TOOLS, "tool_choice": "maybe"}), ("tool_choice", {"tool_choice": "required"}),
                              ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}),
                              ("parallel_tool_calls", {"tools": TOOLS, "parallel_tool_calls": 1})]:
            status, _, answer = self.chat("4", **fields)
            self.assertEqual((status, answer["error"]["param"]), (400, param), fields)


class Fields(Case):
    """Of the tiny model, whose tokens are bytes, all as probable as any other."""

    def complete(self, prompt="hello", **fields):
        status, _, answer = self.server.ask("/v1/completions", {"prompt": prompt, "max_tokens": 4, "temperature": 0, **fields})
        self.assertEqual(status, 200, answer)
        return answer

    def refused(self, param, path="/v1/completions", **fields):
        status, _, answer = self.server.ask(path, fields)
        self.assertEqual((status, answer["error"]["param"]), (400, param))

    def test_echo(self):
        for prompt in ("hello", [104, 101, 108, 108, 111]):
            self.assertEqual(self.complete(prompt, echo=True, logit_bias=A)["choices"][0]["text"], "helloaaaa")
            answer = self.complete(prompt, echo=True, logit_bias=A, logprobs=2)
            told = answer["choices"][0]["logprobs"]
            self.assertEqual((told["tokens"], told["text_offset"]), (list("helloaaaa"), list(range(9))))
            self.assertEqual((told["token_logprobs"][0], told["top_logprobs"][0]), (None, None))
            for value in told["token_logprobs"][1:]:
                self.assertAlmostEqual(value, -math.log(256), 4)
            for token, value, top in list(zip(told["tokens"], told["token_logprobs"], told["top_logprobs"]))[1:]:
                self.assertEqual((len(top), top[token]), (3, value))
            stream = self.stream(prompt=prompt, echo=True, logit_bias=A, logprobs=2, temperature=0, max_tokens=4)
            self.assertEqual([x for event in stream for x in (event["choices"][0]["logprobs"] or {"tokens": []})["tokens"]], told["tokens"])
            self.assertEqual("".join(event["choices"][0]["text"] for event in stream), "helloaaaa")
        answer = self.complete(echo=True, max_tokens=0, logprobs=0)  # the prompt's log-probabilities alone
        self.assertEqual((answer["choices"][0]["text"], answer["usage"]["completion_tokens"]), ("hello", 0))
        self.assertEqual(len(answer["choices"][0]["logprobs"]["token_logprobs"]), 5)
        answer = self.complete(["ab", "c"], echo=True, logit_bias=A, n=2)
        self.assertEqual([choice["text"] for choice in answer["choices"]], ["abaaaa", "abaaaa", "caaaa", "caaaa"])

    def stream(self, path="/v1/completions", **fields):
        return events(read_all(self.server.send({"stream": True, **fields}, path)))

    def test_prompt_logprobs(self):
        for count, entries in ((0, 1), (3, 3)):
            told = self.complete(prompt_logprobs=count)["choices"][0]["prompt_logprobs"]
            self.assertEqual((told[0], len(told)), (None, 5))
            for place, byte in enumerate(b"ello", 1):
                own = told[place][str(byte)]
                self.assertEqual((own["decoded_token"], own["rank"]), (chr(byte), None))  # not among the likeliest
                self.assertAlmostEqual(own["logprob"], -math.log(256), 4)
                self.assertGreaterEqual(len(told[place]), entries)
        _, _, answer = self.server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "prompt_logprobs": 1, "max_tokens": 1})
        self.assertEqual(len(answer["prompt_logprobs"]), len("user: x\nassistant: "))
        self.refused("prompt_logprobs", prompt="a", prompt_logprobs=1, stream=True)

    def test_what_is_told_of_prompts_is_bounded(self):
        self.refused("prompt_logprobs", prompt="x" * 30000, prompt_logprobs=20)
        self.refused("echo", prompt="x" * 30000, echo=True, logprobs=20)
        self.refused("echo", prompt="x" * 30000, echo=True, n=100)
        self.refused("return_token_ids", prompt=[120] * 30000, return_token_ids=True, n=100)
        self.refused("n", prompt=["x"] * 64, n=3)

    def test_token_ids(self):
        choice = self.complete(return_token_ids=True, logit_bias=A)["choices"][0]
        self.assertEqual((choice["token_ids"], choice["prompt_token_ids"]), ([97] * 4, list(b"hello")))
        _, _, answer = self.server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "return_token_ids": True,
                                                                "max_tokens": 2, "logit_bias": A})
        self.assertEqual((answer["choices"][0]["token_ids"], bytes(answer["prompt_token_ids"])), ([97, 97], b"user: x\nassistant: "))
        stream = self.stream(prompt="hello", return_token_ids=True, max_tokens=4, logit_bias=A)
        choices = [event["choices"][0] for event in stream]
        self.assertEqual(choices[0]["prompt_token_ids"], list(b"hello"))
        self.assertFalse(any("prompt_token_ids" in choice for choice in choices[1:]))
        self.assertEqual([x for choice in choices for x in choice.get("token_ids", [])], [97] * 4)
        self.assertNotIn("token_ids", self.complete()["choices"][0])

    def test_what_may_be_chosen(self):
        self.assertEqual(self.complete(allowed_token_ids=[120])["choices"][0]["text"], "xxxx")
        both = {"97": 100, "98": 99}
        self.assertEqual(self.complete(bad_words=["aa"], logit_bias=both)["choices"][0]["text"], "abab")
        self.assertEqual(self.complete(bad_words="a", logit_bias=both)["choices"][0]["text"], "bbbb")

    def test_stop_texts_in_the_answer(self):
        for include, text in ((False, ""), (True, "aa")):
            choice = self.complete(stop="aa", include_stop_str_in_output=include, logit_bias=A)["choices"][0]
            self.assertEqual((choice["text"], choice["finish_reason"]), (text, "stop"))

    def test_search(self):
        answer = self.complete(n=2, best_of=5, temperature=1, seed=1)
        alone = [self.complete(temperature=1, seed=1 + i)["choices"][0]["text"] for i in range(5)]
        self.assertEqual(len(answer["choices"]), 2)
        self.assertTrue({choice["text"] for choice in answer["choices"]} <= set(alone))
        answer = self.server.ask("/v1/completions", {"prompt": "x", "n": 3, "use_beam_search": True, "max_tokens": 4, "length_penalty": 0,
                                                     "early_stopping": True, "logprobs": 0})[2]
        self.assertEqual(len({choice["text"] for choice in answer["choices"]}), 3)
        stream = self.stream(prompt="x", n=3, use_beam_search=True, max_tokens=4)
        texts = ["".join(event["choices"][0]["text"] for event in stream if event["choices"][0]["index"] == i) for i in range(3)]
        self.assertEqual(texts, [choice["text"] for choice in answer["choices"]])

    def test_truncated_prompts(self):
        answer = self.complete(truncate_prompt_tokens=2, return_token_ids=True, echo=True, logit_bias=A)
        self.assertEqual((answer["usage"]["prompt_tokens"], answer["choices"][0]["prompt_token_ids"]), (2, list(b"lo")))
        self.assertEqual(answer["choices"][0]["text"], "loaaaa")
        self.assertEqual(self.complete(truncate_prompt_tokens=-1)["usage"]["prompt_tokens"], 5)

    def test_usage_in_every_chunk(self):
        stream = self.stream(prompt="hello", max_tokens=50, logit_bias=A, stream_options={"include_usage": True, "continuous_usage_stats": True})
        counts = [event["usage"]["completion_tokens"] for event in stream]
        self.assertEqual((counts, counts[-1]), (sorted(counts), 50))
        self.assertEqual({event["usage"]["prompt_tokens"] for event in stream}, {5})

    def rendered(self, server=None, **fields):
        status, _, answer = (server or self.server).ask("/tokenize", {"messages": [{"role": "user", "content": "hi"}], **fields})
        self.assertEqual(status, 200, answer)
        return bytes(answer["tokens"]).decode()

    def test_tokenize(self):
        status, _, answer = self.server.ask("/tokenize", {"model": "tiny", "prompt": "h\u00e9", "return_token_strs": True})
        self.assertEqual((status, answer["count"], answer["tokens"]), (200, 3, [104, 195, 169]))
        self.assertEqual((answer["max_model_len"], answer["token_strs"]), (65536, ["h", "\ufffd", "\ufffd"]))
        self.assertIsNone(self.server.ask("/tokenize", {"prompt": "x"})[2]["token_strs"])
        self.assertEqual(self.server.ask("/tokenize", {"prompt": "", "add_special_tokens": False})[2]["tokens"], [])
        self.assertEqual(self.rendered(), "user: hi\nassistant: ")
        self.assertEqual(self.server.ask("/detokenize", {"tokens": [104, 195, 169]})[2], {"prompt": "h\u00e9"})
        self.assertEqual(self.server.ask("/detokenize", {"tokens": []})[2], {"prompt": ""})
        self.refused("tokens", "/detokenize", tokens=[256])
        self.refused("tokens", "/detokenize", tokens=["x"])
        self.refused("tokens", "/detokenize")
        self.refused("prompt", "/tokenize", prompt=[1])
        self.refused("prompt", "/tokenize")
        self.assertEqual(set(self.server.ask("/version")[2]), {"version"})

    def test_templates(self):
        mine = "{{ name }}: {% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}go{% endif %}"
        self.refused("chat_template", "/tokenize", messages=[], chat_template=mine)
        server = self.own("--trust-request-chat-template")
        values = {"name": "N"}
        self.assertEqual(self.rendered(server, chat_template=mine, chat_template_kwargs=values), "N: hi|go")
        self.assertEqual(self.rendered(server, chat_template=mine, chat_template_kwargs=values, add_generation_prompt=False), "N: hi|")
        self.assertEqual(self.rendered(server, chat_template=mine, continue_final_message=True, add_generation_prompt=False), ": hi")
        messages = [{"role": "user", "content": "x| y"}, {"role": "assistant", "content": " x| "}]
        for template, expected in ((mine, ": x| y| x| "), ("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}", "<x| y><x|")):
            self.assertEqual(self.rendered(server, messages=messages, chat_template=template, continue_final_message=True), expected)
        for fields, param in (({"chat_template": "{% oops"}, "chat_template"), ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
                              ({"chat_template": "no", "continue_final_message": True}, "chat_template"),
                              ({"chat_template": "{% for i in range(100000000) %}{% endfor %}"}, "chat_template")):
            status, _, answer = server.ask("/v1/chat/completions", {"messages": messages, **fields})
            self.assertEqual((status, answer["error"]["param"]), (400, param), answer)

    def test_own_template(self):
        """--chat-template in place of the model's; a request's own still wins where it is trusted."""
        path = os.path.join(self.folder, "own.jinja")

        def write(text):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        write("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{# <tool_call> #}!")
        server = self.own("--chat-template", path, "--trust-request-chat-template")
        self.assertEqual(self.rendered(server), "<user>hi!")
        self.assertEqual(self.rendered(server, chat_template="mine"), "mine")
        ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        self.assertEqual(server.ask("/v1/chat/completions", ask)[2]["usage"]["prompt_tokens"], len("<user>hi!"))
        self.assertEqual(server.ask("/v1/chat/completions", {**ask, "tools": TOOLS})[0], 200)  # written as this template says
        for text, said in (("one\n{% oops", "line 2"), ("zero \0", "zero byte"), ("", "empty"), (None, "own.jinja")):
            os.remove(path) if text is None else write(text)
            run = subprocess.run([KVASIR, "serve", self.model, "--port", "0", "--chat-template-file", path],
                                 capture_output=True, text=True, timeout=WAIT_S, check=False)
            self.assertNotEqual(run.returncode, 0)
            self.assertIn(said, run.stderr)
            self.assertEqual(run.stderr.count("\n"), 1, run.stderr)

    def test_keep_alive(self):
        """A stream that has nothing to say says so."""
        server = self.own("--stream-keep-alive", "0.5", "--max-num-seqs", "1")
        busy = server.send({"prompt": "x", "max_tokens": 60000, "logit_bias": A})  # no stream: one that nobody reads would give its place away
        while not server.ask("/requests")[2]["requests"]:
            pass
        waiting = server.send({"prompt": "y", "max_tokens": 2, "stream": True, "logit_bias": A})
        time.sleep(1.5)
        busy.close()
        data = read_all(waiting)
        self.assertTrue(data.startswith(b": keep-alive\n\n"), data[:100])
        self.assertEqual("".join(event["choices"][0]["text"] for event in events(data.replace(b": keep-alive\n\n", b""))), "aa")


class Embeddings(Case):
    @staticmethod
    def write_model(path):
        os.symlink(os.path.join(DATA, "tiny", "llama"), path)

    def embed(self, text, **fields):
        status, _, answer = self.server.ask("/v1/embeddings", {"input": text, **fields})
        self.assertEqual(status, 200, answer)
        self.assertEqual([item["index"] for item in answer["data"]], list(range(len(answer["data"]))))
        return [item["embedding"] for item in answer["data"]], answer

    def test_ids(self):
        (one,), answer = self.embed([5, 6, 7])
        self.assertEqual((answer["object"], answer["data"][0]["object"], answer["usage"]),
                         ("list", "embedding", {"prompt_tokens": 3, "total_tokens": 3}))
        command = subprocess.run([KVASIR, "embed", self.model, "--prompt-ids", "5,6,7"], capture_output=True, check=True, timeout=WAIT_S)
        self.assertEqual(one, json.loads(command.stdout)["embedding"])
        many, answer = self.embed([[5, 6, 7], [8], [5, 6, 7]])
        self.assertEqual((many[0], many[2], answer["usage"]["prompt_tokens"]), (one, one, 7))
        self.assertNotEqual(many[1], one)
        (packed,), _ = self.embed([5, 6, 7], encoding_format="base64")
        self.assertEqual(list(struct.unpack(f"<{len(one)}f", base64.b64decode(packed))), [struct.unpack("f", struct.pack("f", x))[0] for x in one])
        (short,), _ = self.embed([5, 6, 7], dimensions=4)
        length = math.sqrt(sum(x * x for x in one[:4]))
        for x, y in zip(short, one):
            self.assertAlmostEqual(x, y / length, 5)
        self.assertEqual(len(short), 4)

    def test_pooling(self):
        server = self.own("--pooling", "mean")
        mean = server.ask("/v1/embeddings", {"input": [5, 6, 7]})[2]["data"][0]["embedding"]
        self.assertNotEqual(mean, self.embed([5, 6, 7])[0][0])
        self.assertAlmostEqual(sum(x * x for x in mean), 1, 4)

    def test_many(self):
        """As many as clients send at once."""
        many, answer = self.embed([[i % 50 + 1] for i in range(2048)])
        self.assertEqual((len(many), answer["usage"]["total_tokens"]), (2048, 2048))

    def test_bad_fields(self):
        for param, fields in [("input", {}), ("input", {"input": []}), ("input", {"input": [[]]}), ("input", {"input": [1.5]}),
                              ("input", {"input": [[1]] * 2049}), ("input", {"input": [99999]}), ("dimensions", {"input": [1], "dimensions": 0}),
                              ("dimensions", {"input": [1], "dimensions": 100000}), ("encoding_format", {"input": [1], "encoding_format": "hex"})]:
            status, _, answer = self.server.ask("/v1/embeddings", fields)
            self.assertEqual((status, answer["error"]["param"]), (400, param), fields)


class Responses(Scripted):
    PATH = "/v1/responses"

    def ask(self, text, **fields):
        status, _, answer = self.server.ask(self.PATH, {"input": text, "temperature": 0, **fields})
        self.assertEqual(status, 200, answer)
        return answer

    def told(self, text, **fields):
        """The events of a stream, numbered without a gap."""
        data = read_all(self.server.send({"input": text, "temperature": 0, "stream": True, **fields}, self.PATH)).decode()
        told = []
        for text in data.split("\n\n")[:-1]:
            name, body = text.split("\n")
            told.append(json.loads(body.removeprefix("data: ")))
            self.assertEqual(name, f"event: {told[-1]['type']}")
        self.assertEqual([event["sequence_number"] for event in told], list(range(len(told))))
        return told

    def test_text(self):
        answer = self.ask("4", instructions="be", metadata={"a": "b"}, store=True, user="me", max_output_tokens=99)
        self.assertRegex(answer["id"], "^resp_[0-9a-f]{32}$")
        self.assertEqual((answer["object"], answer["status"], answer["model"]), ("response", "completed", "tiny"))
        item, = answer["output"]
        self.assertEqual((item["type"], item["role"], item["status"]), ("message", "assistant", "completed"))
        self.assertEqual(item["content"], [{"type": "output_text", "text": ANSWERS["4"], "annotations": [], "logprobs": []}])
        self.assertEqual((answer["instructions"], answer["metadata"], answer["store"], answer["user"], answer["max_output_tokens"]),
                         ("be", {"a": "b"}, False, "me", 99))
        usage = answer["usage"]
        self.assertEqual(usage["input_tokens"], len("system: be\nuser: 4"))
        self.assertEqual(usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"])
        self.assertIn("cached_tokens", usage["input_tokens_details"])
        again = self.ask("4", instructions="be")
        self.assertEqual(again["usage"]["input_tokens_details"]["cached_tokens"], usage["input_tokens"] - 1)
        cut = self.ask("4", max_output_tokens=2)
        self.assertEqual((cut["status"], cut["incomplete_details"], cut["output"][0]["status"]),
                         ("incomplete", {"reason": "max_output_tokens"}, "incomplete"))

    def test_calls(self):
        tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
        answer = self.ask("1", tools=tools)
        message, call = answer["output"]
        self.assertEqual(message["content"][0]["text"], "Let me look.")
        self.assertEqual((call["type"], call["name"], call["arguments"], call["status"]),
                         ("function_call", "get_weather", ARGUMENTS, "completed"))
        self.assertEqual(answer["tools"], tools)
        self.assertEqual([item["name"] for item in self.ask("2", tools=tools)["output"]], ["get_weather", "now"])
        self.assertEqual(self.ask("1", tools=tools, tool_choice="none")["output"][0]["content"][0]["text"], ANSWERS["1"])
        # The next turn: its items are what a chat's messages would be.
        items = [{"role": "developer", "content": "d"}, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
                 message, call, {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny 4"}]
        answer = self.ask(items)
        rendered = 'system: d\nuser: u\nassistant: Let me look.get_weather({"city": "Z\u00fcrich", "days": [1, 2]})\ntool: sunny 4'
        self.assertEqual(answer["usage"]["input_tokens"], len(rendered.encode()))
        self.assertEqual(answer["output"][0]["content"][0]["text"], ANSWERS["4"])

    def test_stream(self):
        tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
        for text, fields in [(text, fields) for text in ANSWERS for fields in ({"tools": tools}, {"top_logprobs": 1})]:
            whole = self.ask(text, **fields)
            told = self.told(text, **fields)
            self.assertEqual([event["type"] for event in told[:2] + told[-1:]], ["response.created", "response.in_progress", "response.completed"])
            self.assertEqual((told[0]["response"]["status"], told[0]["response"]["output"], told[0]["response"]["usage"]), ("in_progress", [], None))
            final = told[-1]["response"]
            done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
            self.assertEqual(final["output"], done)

            def plain(items):
                return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]
            self.assertEqual(plain(final["output"]), plain(whole["output"]))
            self.assertEqual(final["usage"]["output_tokens"], whole["usage"]["output_tokens"])
            for index, item in enumerate(final["output"]):
                mine = [event for event in told if event.get("output_index") == index]
                kind = "output_text" if item["type"] == "message" else "function_call_arguments"
                value = item["content"][0]["text"] if item["type"] == "message" else item["arguments"]
                self.assertEqual("".join(event["delta"] for event in mine if event["type"] == f"response.{kind}.delta"), value)
                order = [event["type"].removeprefix("response.") for event in mine if not event["type"].endswith(".delta")]
                part = (["content_part.added"], ["content_part.done"]) if item["type"] == "message" else ([], [])
                self.assertEqual(order, ["output_item.added", *part[0], f"{kind}.done", *part[1], "output_item.done"])
                self.assertEqual({event.get("item_id", item["id"]) for event in mine}, {item["id"]})
        self.assertEqual(self.told("4", max_output_tokens=2)[-1]["type"], "response.incomplete")

    def test_bad_fields(self):
        for param, fields in [("input", {}), ("input", {"input": 5}), ("input", {"input": [5]}), ("input", {"input": [{"type": "item_reference", "id": "x"}]}),
                              ("input", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
                              ("input", {"input": [{"type": "function_call", "name": "x"}]}), ("input", {"input": [{"type": "function_call_output", "call_id": "x"}]}),
                              ("tools", {"input": "x", "tools": [{"type": "web_search"}]}), ("tools", {"input": "x", "tools": [5]}),
                              ("previous_response_id", {"input": "x", "previous_response_id": "resp_1"}), ("metadata", {"input": "x", "metadata": 3}),
                              ("background", {"input": "x", "background": True}), ("text", {"input": "x", "text": {"format": {"type": "grammar"}}}),
                              ("truncation", {"input": "x", "truncation": "auto"}),
                              ("top_logprobs", {"input": "x", "top_logprobs": 1, "tools": [{"type": "function", "name": "f"}]}), ("max_output_tokens", {"input": "x", "max_output_tokens": 0}),
                              ("instructions", {"input": "x", "instructions": ["x"]}), ("include", {"input": "x", "include": "x"})]:
            status, _, answer = self.server.ask(self.PATH, fields)
            self.assertEqual((status, answer["error"]["param"]), (400, param), fields)


@unittest.skipUnless(openai, "the openai package is not here (scripts/fetch-client.sh)")
class Client(Scripted):
    """The openai package."""

    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0, timeout=WAIT_S)
        self.addCleanup(self.client.close)

    def test_tools(self):
        fields = {"model": "tiny", "messages": [{"role": "user", "content": "1"}], "tools": TOOLS, "temperature": 0}
        answer = self.client.chat.completions.create(**fields)
        call, = answer.choices[0].message.tool_calls
        self.assertEqual((call.function.name, json.loads(call.function.arguments)["city"]), ("get_weather", "Zürich"))
        with self.client.chat.completions.stream(**fields) as stream:
            final = stream.get_final_completion()
        call, = final.choices[0].message.tool_calls
        self.assertEqual((call.function.name, call.function.arguments), ("get_weather", ARGUMENTS))
        self.assertEqual(final.choices[0].finish_reason, "tool_calls")


    def test_the_lines_of_the_readme(self):
        model = os.path.join(self.folder, "qwen2.gguf")
        self.write_model(model)
        server = Server(model)
        self.addCleanup(server.close)
        with open(os.path.join(DATA, "..", "..", "README.md"), encoding="utf-8") as file:
            lines = re.search(r"(?:    .*\n)*    from openai import OpenAI\n(?:    .*\n)*", file.read()).group()
        code = textwrap.dedent(lines).replace(":8000/", f":{server.port}/")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, {})  # pylint: disable=exec-used
        self.assertEqual(out.getvalue(), ANSWERS["?"])

    def test_responses(self):
        answer = self.client.responses.create(model="tiny", input="4", instructions="be", temperature=0)
        self.assertEqual((answer.output_text, answer.usage.input_tokens_details.cached_tokens), (ANSWERS["4"], 0))
        tools = [{"type": "function", "strict": False, **tool["function"]} for tool in TOOLS]
        with self.client.responses.stream(model="tiny", input="1", tools=tools, temperature=0) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertIn("response.function_call_arguments.delta", kinds)
        self.assertEqual((final.output_text, final.output[1].name, final.output[1].arguments), ("Let me look.", "get_weather", ARGUMENTS))
        pieces = self.client.responses.create(model="tiny", input="4", stream=True, temperature=0)
        self.assertEqual("".join(event.delta for event in pieces if event.type == "response.output_text.delta"), ANSWERS["4"])

    def test_embeddings(self):
        answer = self.client.embeddings.create(model="tiny", input=["a", "b"])  # base64 on the wire
        self.assertEqual([len(item.embedding) for item in answer.data], [script_model.STATES] * 2)
        self.assertEqual(self.client.embeddings.create(model="tiny", input="a", encoding_format="float").usage.total_tokens, 1)

    def test_async(self):
        async def ask(client, text):
            stream = await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": text}], temperature=0, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def all_of_them():
            async with openai.AsyncOpenAI(base_url=str(self.client.base_url), api_key="none", max_retries=0, timeout=WAIT_S) as client:
                return await asyncio.gather(*(ask(client, text) for text in list(ANSWERS) * 4))
        self.assertEqual(asyncio.run(all_of_them()), list(ANSWERS.values()) * 4)


class OpenApi(Case):
    """The document of what there is, and everything in it tried by schemathesis."""
    OPTIONS = ("--context", "64", "--trust-request-chat-template")
    CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

    def test_document(self):
        status, _, document = self.server.ask("/openapi.json")
        self.assertEqual((status, document["openapi"]), (200, "3.1.0"))
        for path, method in (("/v1/chat/completions", "post"), ("/v1/models/{model}", "get"), ("/tokenize", "post"), ("/v1/responses", "post"),
                             ("/metrics", "get"), ("/requests", "get"), ("/kv/stats", "get"), ("/kv/pins", "get"), ("/kv/pins", "post"),
                             ("/drain", "post")):
            self.assertIn("summary", document["paths"][path][method])
        body = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        self.assertEqual(body["properties"]["temperature"]["anyOf"], [{"type": "number", "minimum": 0, "maximum": 100}, {"type": "null"}])
        self.assertIn({"key": []}, document["security"])
        self.assertEqual((body["required"], body["properties"]["suffix"]["anyOf"][0]["type"]), (["prompt"], "null"))

    @unittest.skipUnless(importlib.util.find_spec("schemathesis"), "schemathesis is not here (scripts/fetch-client.sh)")
    def test_schemathesis(self):
        count = "300" if os.environ.get("KVASIR_TEST_COUNT") == "full" else "10"
        run = subprocess.run([sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{self.server.port}/openapi.json", "--checks",
                              self.CHECKS, "--exclude-path", "/drain",  # which ends the server
                              "--max-examples", count, "--phases", "examples,coverage,fuzzing", "--no-color", "--seed", "1",
                              "--generation-database", "none", "--request-timeout", str(WAIT_S), "--warnings", "off"],
                             cwd=self.folder, env={**os.environ, "PYTHONPATH": PYTHON_PATH}, capture_output=True, text=True, timeout=1500, check=False)
        self.assertEqual(run.returncode, 0, run.stdout[-5000:] + run.stderr[-1000:])
        self.assertEqual(self.server.ask("/health")[0], 200)


class Others(Scripted):
    """Clients that are not OpenAI's own."""

    def setUp(self):
        self.url = f"http://127.0.0.1:{self.server.port}/v1"

    @unittest.skipUnless(importlib.util.find_spec("langchain_openai"), "langchain-openai is not here (scripts/fetch-client.sh)")
    def test_langchain(self):
        import langchain_openai
        model = langchain_openai.ChatOpenAI(base_url=self.url, api_key="none", model="tiny", temperature=0, max_retries=0)
        self.assertEqual(model.invoke("4").content, ANSWERS["4"])
        self.assertEqual("".join(chunk.content for chunk in model.stream("4")), ANSWERS["4"])
        call, = model.bind_tools(TOOLS).invoke("1").tool_calls
        self.assertEqual((call["name"], call["args"]), ("get_weather", json.loads(ARGUMENTS)))
        last = None
        for chunk in model.bind_tools(TOOLS).stream("2"):
            last = chunk if last is None else last + chunk
        self.assertEqual([call["name"] for call in last.tool_calls], ["get_weather", "now"])
        schema = {"title": "Mood", "description": "how it is", "type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
        for method in ("function_calling", "json_schema"):
            self.assertIn(model.with_structured_output(schema, method=method).invoke("4"), ({"mood": "good"}, {"mood": "bad"}))
        embedder = langchain_openai.OpenAIEmbeddings(base_url=self.url, api_key="none", model="tiny", check_embedding_ctx_length=False)
        self.assertEqual([len(vector) for vector in embedder.embed_documents(["a", "b", "c"])], [script_model.STATES] * 3)
        model = langchain_openai.ChatOpenAI(base_url=self.url, api_key="none", model="tiny", temperature=0, use_responses_api=True, max_retries=0)
        self.assertEqual(model.invoke("4").text, ANSWERS["4"])

    @unittest.skipUnless(importlib.util.find_spec("litellm"), "litellm is not here (scripts/fetch-client.sh)")
    def test_litellm(self):
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for prices
        import litellm
        litellm.telemetry = False
        fields = {"model": "openai/tiny", "api_base": self.url, "api_key": "none", "temperature": 0, "num_retries": 0}

        def ask(text, **more):
            return litellm.completion(messages=[{"role": "user", "content": text}], **fields, **more)
        self.assertEqual(ask("4").choices[0].message.content, ANSWERS["4"])
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in ask("4", stream=True)), ANSWERS["4"])
        call, = ask("1", tools=TOOLS).choices[0].message.tool_calls
        self.assertEqual((call.function.name, call.function.arguments), ("get_weather", ARGUMENTS))
        self.assertEqual(len(litellm.embedding(input=["a", "b"], encoding_format="float", **{name: fields[name] for name in ("model", "api_base", "api_key")}).data), 2)

    @unittest.skipUnless(importlib.util.find_spec("llm"), "llm is not here (scripts/fetch-client.sh)")
    def test_llm(self):
        with open(os.path.join(self.folder, "extra-openai-models.yaml"), "w", encoding="ascii") as file:
            file.write(f"- model_id: here\n  model_name: tiny\n  api_base: {self.url}\n")
        for stream in ([], ["--no-stream"]):
            run = subprocess.run([sys.executable, "-m", "llm", "-m", "here", "--key", "none", "--no-log", *stream, "4"], timeout=WAIT_S, check=False,
                                 env={**os.environ, "PYTHONPATH": PYTHON_PATH, "LLM_USER_PATH": self.folder}, capture_output=True, text=True)
            self.assertEqual((run.returncode, run.stdout), (0, ANSWERS["4"] + "\n"), run.stderr)


QWEN2 = os.path.join(cache_folder(), "models", "qwen2.gguf")


@unittest.skipUnless(openai and os.path.exists(QWEN2), "needs the openai package and the model qwen2 (scripts/fetch-model.sh qwen2)")
class RealTools(unittest.TestCase):
    """A round trip with a model that was taught to call."""

    def test_round_trip(self):
        server = Server(QWEN2, "--context", "2048", "--threads", "2")
        self.addCleanup(server.close)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0, timeout=WAIT_S)
        self.addCleanup(client.close)
        tools = [{"type": "function", "function": {"name": "get_weather", "description": "The weather in a city", "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
        messages = [{"role": "user", "content": "What is the weather in Paris now?"}]
        fields = {"model": "qwen2", "tools": tools, "temperature": 0, "max_tokens": 100}
        answer = client.chat.completions.create(messages=messages, **fields).choices[0]
        call, = answer.message.tool_calls
        self.assertEqual((answer.finish_reason, call.function.name), ("tool_calls", "get_weather"))
        self.assertIn("Paris", json.loads(call.function.arguments)["city"])
        demanded = client.chat.completions.create(messages=[{"role": "user", "content": "Tell me about Rome."}], **fields, tool_choice="required")
        self.assertEqual(set(json.loads(demanded.choices[0].message.tool_calls[0].function.arguments)), {"city"})
        messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny, 31 degrees"}]
        answer = client.chat.completions.create(messages=messages, **fields, tool_choice="none").choices[0]
        self.assertIn("31", answer.message.content)


if __name__ == "__main__":
    if not os.access(KVASIR, os.X_OK):
        raise SystemExit(f"{KVASIR} is not built")
    main()
