#!/usr/bin/env python3
"""What a chat keeps: its messages after each command and key, seen through /save, and its history.

    KVASIR=build/kvasir python3 test_chat.py        exit status 77: no smollm2 or no pseudo terminals

test_cli.py looks at a chat from outside (prompts, Ctrl-C, leaving); here the JSON it saves must hold exactly what was
said. The answers themselves are not judged.
"""
import json
import os
import stat
import unittest

import test_cli
from test_cli import main, needs_smollm2


@needs_smollm2
class Messages(test_cli.Chat):
    """The terminal is test_cli.Chat's; its own tests are not run again."""
    test_a_conversation = test_interrupt = None

    def say(self, text):
        self.type(text + "\n")
        return self.wait_for(self.PROMPT)

    def saved(self):
        path = os.path.join(self.folder, "saved.json")
        self.say(f"/save {path}")
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    def begin(self, *arguments):
        self.open(*arguments)
        self.wait_for(self.PROMPT)

    def test_turns_and_regeneration(self):
        self.begin("--temp", "1.5", "-s", "3")
        self.say("Name a fruit.")
        first = self.saved()
        self.assertEqual([m["role"] for m in first], ["user", "assistant"])
        self.assertEqual(first[0]["content"], "Name a fruit.")
        self.assertTrue(first[1]["content"])
        answers = {first[1]["content"]}
        for _ in range(3):
            self.say("/regen")
            again = self.saved()
            self.assertEqual(again[:1], first[:1])
            self.assertEqual(len(again), 2)
            answers.add(again[1]["content"])
        self.assertGreater(len(answers), 1, "another draw each time, also with a seed")
        self.say("And another.")
        self.assertEqual(self.saved()[:2], again)
        self.assertEqual(len(self.saved()), 4)

    def test_many_lines(self):
        self.begin()
        self.say('"""one line"""')
        self.assertEqual(self.saved()[0]["content"], "one line")
        self.type('"""\ntwo\n  lines\n\n"""\n')
        self.wait_for(r"lines[\s\S]*" + self.PROMPT)
        self.assertEqual(self.saved()[2]["content"], "two\n  lines\n")

    def test_interrupt_keeps_what_was_said(self):
        self.begin("-n", "2000", "--ignore-eos")
        self.type("Tell me a very long story.\n")
        self.wait_for(r"story\.[\s\S]*\w{3}[\s\S]*\w{3}")
        self.type("\x03")
        self.wait_for(self.PROMPT, 20)
        messages = self.saved()
        self.assertEqual([m["role"] for m in messages], ["user", "assistant"])
        self.assertTrue(messages[1]["content"])

    def test_interrupt_drops_the_line(self):
        self.begin()
        self.type("half a line")
        self.wait_for("half a line")
        self.type("\x03")
        self.wait_for(self.PROMPT)
        self.assertEqual(self.saved(), [])
        self.type("\x03")
        self.assertEqual(self.leave(), 0)

    def test_load_and_clear(self):
        told = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b\u00e9\n"}]
        self.begin("--system", "Be brief.")
        self.say("/load " + self.path("told.json", json.dumps(told)))
        self.assertEqual(self.saved(), told)
        for wrong in ("{", "{}", '["x"]', '[{"role":1,"content":"x"}]', '[{"role":"user"}]', ""):
            self.assertIn("kvasir:", self.say("/load " + self.path("wrong.json", wrong)))
        self.assertIn("kvasir:", self.say("/load " + os.path.join(self.folder, "nowhere.json")))
        self.assertEqual(self.saved(), told, "what could not be loaded changed nothing")
        self.say("/load " + self.path("told.json", json.dumps({"messages": told[1:]})))
        self.assertEqual(self.saved(), told[1:])
        self.say("/clear")
        self.assertEqual(self.saved(), [{"role": "system", "content": "Be brief."}])

    def test_a_full_context_is_told(self):
        self.begin("-c", "64", "--ignore-eos", "-n", "1000")
        self.assertIn("/clear", self.say("Tell me a story."))
        self.assertIn("/clear", self.say("Go on, and on, and on."))
        self.assertEqual(len(self.saved()), 2, "the message that did not fit is not kept")

    def test_history(self):
        self.begin()
        self.say("/stats")
        self.type("\x04")
        self.assertEqual(self.leave(), 0)
        path = os.path.join(self.folder, "kvasir", "history")
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "/stats\n")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)


if __name__ == "__main__":
    main()
