"""A headless Chromium, driven through chromedriver's WebDriver interface with Python's standard library only.

Nothing that it loads leaves this machine: every name but 127.0.0.1 fails to resolve. Its profile is a temporary folder that goes
with it. WebDriver: https://www.w3.org/TR/webdriver2/
"""
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "chromium and chromedriver are not here (Debian: chromium, chromium-driver)"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ENTER, SHIFT, ESCAPE, TAB, RIGHT = "\ue007", "\ue008", "\ue00c", "\ue004", "\ue014"
OPTIONS = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync", "--disable-extensions",
           "--disable-component-update", "--disable-background-networking", "--force-device-scale-factor=1", "--window-size=1440,900",
           "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


class NotStarted(Exception):
    """There is a Chromium, but it does not run here (no sandbox for this user, say)."""


class Browser:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="kvasir-browser-")
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.session = None
        try:
            found = None
            for line in self.driver.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            if not found:
                raise AssertionError("chromedriver ended")
            self.base = f"http://127.0.0.1:{found.group(1)}/session"
            options = [*OPTIONS, f"--user-data-dir={self.folder}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
            wanted = {"browserName": "chrome", "goog:chromeOptions": {"binary": CHROMIUM, "args": options},
                      "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            self.session = self.call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            self.base += "/" + self.session
        except (AssertionError, OSError) as error:
            self.close()
            raise NotStarted(f"chromium does not start: {error}") from None

    def call(self, path, body=None, method=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"].split("\n")[0]) from None

    def close(self):
        try:
            if self.session:
                self.call("", method="DELETE")
        finally:
            self.driver.terminate()
            self.driver.wait()
            self.driver.stdout.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def go(self, url):
        self.call("/url", {"url": url})

    def run(self, script, *args):
        """The value of a function's body in the page; a promise is awaited."""
        return self.call("/execute/sync", {"script": script, "args": list(args)})

    def wait(self, script, *args, within=30):
        """Until the expression is truthy; its value."""
        end = time.monotonic() + within
        while not (value := self.run(f"return {script}", *args)):
            if time.monotonic() > end:
                raise AssertionError(f"not within {within} s: {script}")
            time.sleep(0.05)
        return value

    def find(self, css):
        return self.call("/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.call(f"/element/{self.find(css)}/click", {})

    def type(self, css, text):
        self.call(f"/element/{self.find(css)}/value", {"text": text})

    def keys(self, *keys):
        """Pressed one after the other, where the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def cdp(self, command, **params):
        return self.call("/goog/cdp/execute", {"cmd": command, "params": params})

    def size(self, width, height, mobile=False):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def theme(self, name):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("/screenshot")))

    def console(self):
        """What the console has got since the last call."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.call("/se/log", {"type": "browser"})]

    def requests(self):
        """The addresses that were asked for since the last call."""
        entries = [json.loads(entry["message"])["message"] for entry in self.call("/se/log", {"type": "performance"})]
        return [entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
