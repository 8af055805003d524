"""A visitor of a running workbench over HTTP and websocket, as a browser would be: for the smoke test and the tests."""

from __future__ import annotations

import html
import json
import re
import time
import uuid
from collections.abc import Mapping
from http.cookiejar import CookieJar
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import websocket

PAGE_SECONDS = 120


class CellFailed(Exception):
    """A cell ended in an error; the text is the kernel's name and value of it."""


class Visitor:
    """One person's browser session: logs in, starts and stops her server, runs cells in a kernel."""

    def __init__(self, url: str, name: str):
        self.url = url.rstrip("/")
        self.name = name
        self.session = requests.Session()
        self._kernels: list[Kernel] = []

    def close(self) -> None:
        """Gives up the session and its websockets."""
        for kernel in self._kernels:
            kernel.hang_up()
        self.session.close()

    def reopen(self, kernel_id: str) -> Kernel:
        """A new connection to a kernel that runs already."""
        kernel = Kernel(self, kernel_id)
        self._kernels.append(kernel)
        return kernel

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET below the public address."""
        return self.session.get(self.url + path, timeout=PAGE_SECONDS, **options)

    def _xsrf(self, path: str) -> str:
        jar: CookieJar = self.session.cookies
        cookies = [c for c in jar if c.name == "_xsrf" and path.startswith(c.path)]
        return max(cookies, key=lambda c: len(c.path)).value or "" if cookies else ""

    def post(
        self, path: str, *, form: Mapping[str, str] | None = None, body: Any = None
    ) -> requests.Response:
        """POST with the page's own forgery token."""
        headers = {"X-XSRFToken": self._xsrf(path), "Referer": self.url + path}
        return self.session.post(
            self.url + path,
            data=form,
            json=body,
            headers=headers,
            params=self._token(path),
            timeout=PAGE_SECONDS,
        )

    def _token(self, path: str) -> dict[str, str]:
        return {"_xsrf": self._xsrf(path)}

    def delete(self, path: str) -> requests.Response:
        """DELETE with the page's own forgery token."""
        headers = {"X-XSRFToken": self._xsrf(path), "Referer": self.url + path}
        return self.session.delete(
            self.url + path, headers=headers, params=self._token(path), timeout=PAGE_SECONDS
        )

    def login(self, password: str) -> requests.Response:
        """Sends the login form; the answer after all redirects."""
        self.get("/hub/login")
        return self.post("/hub/login?next=%2Fhub%2Fhome", form={"username": self.name, "password": password})

    def offers(self) -> str:
        """The spawn page's HTML."""
        return self.get("/hub/spawn").text

    def ask_to_start(self, grant: str, purpose: str) -> requests.Response:
        """Sends the spawn form; the answer after all redirects."""
        self.get("/hub/spawn")
        return self.post("/hub/spawn", form={"choice": f"{grant}|{purpose}"})

    def start(self, grant: str, purpose: str, seconds: float = 180) -> float:
        """Starts the server and waits until it is ready; seconds from the click."""
        begun = time.perf_counter()
        answer = self.ask_to_start(grant, purpose)
        if answer.status_code >= 400:
            raise AssertionError(f"{answer.status_code}: {message_on(answer.text)}")
        while not self.ready():
            if time.perf_counter() - begun > seconds:
                raise AssertionError(f"the server of {self.name} was not ready within {seconds:.0f} s")
            time.sleep(0.05)
        taken = time.perf_counter() - begun
        self.get(f"/user/{self.name}/")  # passes the OAuth redirects, so that cookies are set
        return taken

    def model(self) -> dict[str, Any]:
        """The Hub's own description of the user."""
        answer = self.session.get(
            f"{self.url}/hub/api/user", headers={"Referer": self.url + "/hub/home"}, timeout=PAGE_SECONDS
        )
        answer.raise_for_status()
        return cast(dict[str, Any], answer.json())

    def ready(self) -> bool:
        """Whether the server answers."""
        return bool(self.model()["servers"].get("", {}).get("ready"))

    def stop(self, seconds: float = 90) -> None:
        """Stops the server and waits until it is gone."""
        self.get("/hub/home")
        self.delete(f"/hub/api/users/{self.name}/server").raise_for_status()
        deadline = time.monotonic() + seconds
        while self.model()["servers"]:
            if time.monotonic() > deadline:
                raise AssertionError(f"the server of {self.name} was not gone within {seconds:.0f} s")
            time.sleep(0.1)

    def kernel(self) -> Kernel:
        """A new kernel in the running server."""
        self.get(f"/user/{self.name}/lab")
        answer = self.post(f"/user/{self.name}/api/kernels", body={"name": "python3"})
        answer.raise_for_status()
        return self.reopen(answer.json()["id"])

    def notebook(self, path: str) -> dict[str, Any]:
        """A notebook's content, by the contents API that Lab uses."""
        answer = self.get(
            f"/user/{self.name}/api/contents/{path}", params={"content": "1", "type": "notebook"}
        )
        answer.raise_for_status()
        return cast(dict[str, Any], answer.json()["content"])


class Kernel:
    """One kernel over the proxy's websocket."""

    def __init__(self, visitor: Visitor, kernel_id: str):
        self._visitor = visitor
        self.id = kernel_id
        path = f"/user/{visitor.name}/api/kernels/{kernel_id}/channels"
        host = urlsplit(visitor.url).netloc
        self._socket = websocket.create_connection(
            f"ws://{host}{path}",
            cookie=_cookies_for(visitor.session, path),
            origin=visitor.url,
            timeout=PAGE_SECONDS,
        )

    def run(self, code: str, seconds: float = 120) -> tuple[str, list[dict[str, Any]]]:
        """What a cell printed and what it displayed (MIME bundles). Raises CellFailed."""
        message = uuid.uuid4().hex
        self._socket.settimeout(seconds)
        self._socket.send(
            json.dumps(
                {
                    "header": {
                        "msg_id": message,
                        "msg_type": "execute_request",
                        "username": self._visitor.name,
                        "session": "visitor",
                        "version": "5.3",
                        "date": "",
                    },
                    "parent_header": {},
                    "metadata": {},
                    "content": {"code": code, "silent": False, "store_history": True, "allow_stdin": False},
                    "buffers": [],
                    "channel": "shell",
                }
            )
        )
        printed, shown, error = "", [], ""
        while True:
            reply = json.loads(self._socket.recv())
            if reply["parent_header"].get("msg_id") != message:
                continue
            kind, content = reply["msg_type"], reply["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind in {"display_data", "execute_result"}:
                shown.append(content["data"])
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                if error:
                    raise CellFailed(error)
                return printed, shown

    def run_notebook(self, notebook: Mapping[str, Any]) -> int:
        """Runs every code cell in order; how many there were. Raises CellFailed."""
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(cells, 1):
            try:
                self.run("".join(cell["source"]))
            except CellFailed as failed:
                raise CellFailed(f"cell {number} of {len(cells)}: {failed}") from None
        return len(cells)

    def hang_up(self) -> None:
        """Leaves the kernel running."""
        self._socket.close()

    def close(self) -> None:
        """Ends the kernel."""
        self.hang_up()
        self._visitor.delete(f"/user/{self._visitor.name}/api/kernels/{self.id}")


def _cookies_for(session: requests.Session, path: str) -> str:
    """The Cookie header for a path: of two cookies of one name, the one of the longer path."""
    jar: CookieJar = session.cookies
    found = {c.name: c.value for c in sorted(jar, key=lambda c: len(c.path)) if path.startswith(c.path)}
    return "; ".join(f"{name}={value}" for name, value in found.items())


def message_on(page: str) -> str:
    """The notice that a Hub page shows, as plain text; empty when it shows none."""
    found = re.search(r'class="(?:wb-notice[^"]*|login_error)"[^>]*>(.*?)</(?:div|p)>', page, re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", found.group(1)) if found else ""
    return html.unescape(" ".join(text.split()))
