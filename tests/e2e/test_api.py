#!/usr/bin/env python3
"""What OpenAI's and vLLM's APIs have beside plain answers, over sockets and through real clients.

    KVASIR=build/kvasir python3 test_api.py [CLASS]        exit status 77: everything in CLASS was skipped

The model says what a test wants (script_model.py), but for a few tests of what a real one does with tools.
"""
import json
import os
import unittest

import script_model
from test_server import KVASIR, WAIT_S, Case, Server, cache_folder, events, main, openai, read_all

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2]}}\n</tool_call>'
ARGUMENTS = '{"city": "Zürich", "days": [1, 2]}'
ANSWERS = {
    "1": "Let me look.\n" + CALL,
    "2": CALL + '\n<tool_call>{"name": "now", "arguments": {}}</tool_call>',
    "3": '<tool_call>{"name": "unheard_of", "arguments": {}}</tool_call> and more',
    "4": "Nothing to call here.",
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
        messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny, 31 degrees"}]
        answer = client.chat.completions.create(messages=messages, **fields, tool_choice="none").choices[0]
        self.assertIn("31", answer.message.content)


if __name__ == "__main__":
    if not os.access(KVASIR, os.X_OK):
        raise SystemExit(f"{KVASIR} is not built")
    main()
