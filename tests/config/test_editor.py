"""Test the schema with the language server that editors use; needs `npm install -g yaml-language-server`."""

import json
import shutil
import subprocess

import pytest

from sheeprl.algos import registry
from sheeprl.config.loading import shipped_folder
from tests.config.test_json_schema import OWN

SERVER = shutil.which("yaml-language-server")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(SERVER is None, reason="yaml-language-server isn't installed")]


class Editor:
    """Client of the language server with one open file at a time."""

    def __init__(self, folder):
        """Start the server."""
        self.folder, self.number = folder, 0
        self.server = subprocess.Popen([SERVER, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.request("initialize", processId=None, rootUri=folder.as_uri(), capabilities={})
        self.send("initialized")

    def send(self, method, **params):
        """Send a message."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        self.write(message | ({"id": self.number} if method not in NOTIFICATIONS else {}))

    def write(self, message):
        """Write a message."""
        body = json.dumps(message).encode()
        self.server.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.server.stdin.flush()

    def read(self):
        """Return the next message; answer the server's own requests with null."""
        length = 0
        while line := self.server.stdout.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        message = json.loads(self.server.stdout.read(length))
        if "method" in message and "id" in message:
            self.write({"jsonrpc": "2.0", "id": message["id"], "result": None})
        return message

    def request(self, method, **params):
        """Send a request, and return its result."""
        self.number += 1
        self.send(method, **params)
        while True:
            message = self.read()
            if message.get("id") == self.number and "method" not in message:
                return message["result"]

    def open(self, name, text):
        """Open a file, and return its URI and the messages of its mistakes."""
        uri = (self.folder / name).as_uri()
        text = f"# yaml-language-server: $schema={(shipped_folder() / 'schema.json').as_uri()}\n{text}"
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self.send("textDocument/didOpen", textDocument=document)
        while True:
            message = self.read()
            if message.get("method") == "textDocument/publishDiagnostics" and message["params"]["uri"] == uri:
                return uri, [each["message"] for each in message["params"]["diagnostics"]]

    def completions(self, uri, line, character):
        """Return the words that complete a place of a file."""
        place = {"line": line, "character": character}
        found = self.request("textDocument/completion", textDocument={"uri": uri}, position=place)
        items = found["items"] if isinstance(found, dict) else found
        return {item["label"] for item in items}


NOTIFICATIONS = ("initialized", "textDocument/didOpen")


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    """Return a client of a server, which ends after the tests."""
    client = Editor(tmp_path_factory.mktemp("editor"))
    yield client
    client.server.kill()
    client.server.wait()


@pytest.mark.parametrize("name", OWN)
def test_an_editor_completes_and_checks_the_arguments_of_the_algorithm(editor, name):
    """The server completes the arguments of the named algorithm, and flags those of no or another algorithm."""
    uri, mistakes = editor.open(f"{name}.yaml", f"algo:\n  name: {name}\n  \nenv:\n  id: CartPole-v1\n")
    assert mistakes == []
    assert set(registry.args_class(name).model_fields) - {"name"} <= editor.completions(uri, 3, 2)
    _, mistakes = editor.open(f"{name}_wrong.yaml", f"algo:\n  name: {name}\n  nonsense: 1\nrun:\n  seeed: 3\n")
    assert len(mistakes) == 2 and "nonsense" in mistakes[0] and "seeed" in mistakes[1]
