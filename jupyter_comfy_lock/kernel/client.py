"""The Jupyter server's REST API, as calls. The only module that knows its paths."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    NoServerExtension,
    UnknownFile,
    WrongCredential,
    error_from_json,
)
from jupyter_comfy_lock.kernel.connection import Place
from jupyter_comfy_lock.kernel.wire import (
    ComfyJson,
    HelloJson,
    LockedJson,
    LockJson,
    TaskJson,
    WaitingJson,
    WishJson,
)

API = "comfy-lock/api/"

#: Seconds. Locking and submitting wait for a ComfyServer that may be slow to answer.
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
#: Streams carry a sign of life every 10 or 15 s; silence for longer than this is a dead connection.
STREAM_TIMEOUT = httpx.Timeout(40.0, connect=5.0)
#: A trial of the self-test ends within 45 s, and says so.
TRIAL = httpx.Timeout(90.0, connect=5.0)
#: For what is done while an error or the user's Ctrl-C waits to be shown.
HASTE = httpx.Timeout(2.0)


def is_silence(error: BaseException) -> bool:
    """Whether the Jupyter server did not answer, so that nobody knows what it did."""
    return isinstance(error, NoServerExtension) and bool(error.details.get("silent"))


_TWICE = Retrying(
    retry=retry_if_exception(is_silence),
    stop=stop_after_attempt(2),
    wait=wait_fixed(0.5),
    reraise=True,
)


class ComfyClient:
    """Asks one Jupyter server, in the name of whoever owns `credential`. Thread-safe.

    Every method raises:
        NoServerExtension: nothing answers there, or it has not this extension.
        WrongCredential: the Jupyter server does not accept us.
        ComfyLockError: the error that the server named, as its own class.
    """

    def __init__(self, place: Place, *, transport: httpx.BaseTransport | None = None) -> None:
        self.place = place
        self._http = httpx.Client(
            base_url=place.url,
            timeout=TIMEOUT,
            transport=transport or _transport(place),
        )

    def hello(self, instance: str, *, kernel_id: str, name: str | None) -> HelloJson:
        """Say who we are; the answer has the credential for everything else."""
        authorization = self.place.authorization()
        response = self._send(
            "POST",
            API + "holders",
            headers={"Authorization": authorization} if authorization else {},
            json={
                "kernel_id": kernel_id,
                "instance": instance,
                "name": name,
            },
        )
        return cast(HelloJson, response.json())

    def leave(self, credential: str) -> None:
        """Leave; what was held is released."""
        self._send("DELETE", API + "holders/me", headers=_as(credential), timeout=1.0)

    def renew(self, credential: str, within_s: float) -> None:
        """Say that this process is still there."""
        self._send("PUT", API + "holders/me/lease", headers=_as(credential), timeout=within_s)

    def pin(self, credential: str, comfy_id: str | None) -> str | None:
        """Have `comfy_id` preferred from now on; return what is preferred now."""
        answer = self._ask(credential, "PUT", "holders/me/pin", json={"comfy_id": comfy_id})
        return cast(str | None, answer["pin"])

    def pool(self, credential: str) -> list[ComfyJson]:
        """Return the ComfyServers, in the pool's order."""
        return cast(list[ComfyJson], self._ask(credential, "GET", "pool")["servers"])

    def locks(self, credential: str) -> list[LockJson]:
        """Return this kernel's lock, or nothing."""
        return cast(list[LockJson], self._ask(credential, "GET", "locks")["locks"])

    def waiting(self, credential: str) -> list[WaitingJson]:
        """Return how this kernel's wishes stand in line; nothing where it waits for none."""
        return cast(list[WaitingJson], self._ask(credential, "GET", "locks")["waiting"])

    def lock(
        self, credential: str, wish: WishJson, on_waiting: Callable[[WaitingJson], None]
    ) -> tuple[LockedJson, bool]:
        """Lock, waiting in line for as long as `wish` says; the second value: is the lock new?

        `on_waiting` is told of each change while in line. Leaving it by an exception closes the
        connection, and with it the place in line is gone.
        """
        with self._stream(
            "POST", API + "locks", headers=_as(credential), json=wish, timeout=STREAM_TIMEOUT
        ) as response:
            if response.status_code == httpx.codes.ACCEPTED:
                return self._wait_in_line(response, on_waiting)
            response.read()
            return cast(LockedJson, response.json()), response.status_code == httpx.codes.CREATED

    def take_back(self, credential: str, request_id: str) -> LockJson | None:
        """Take a wish for a lock back; return the lock that it had got meanwhile."""
        path = f"locks/requests/{request_id}"
        answer = self._ask(credential, "DELETE", path, timeout=HASTE)
        return cast(LockJson | None, answer["released"])

    def release(self, credential: str) -> LockJson | None:
        """Release; return what was held."""
        return cast(LockJson | None, self._ask(credential, "DELETE", "locks/mine")["released"])

    def submit(
        self,
        credential: str,
        prompt: Mapping[str, Any],
        extra_data: Mapping[str, Any] | None,
        *,
        task_id: str | None = None,
        comfy_id: str | None = None,
    ) -> TaskJson:
        """Send a prompt under this kernel's lock, if that is of `comfy_id` where one is named.

        It goes out under an id that is made before, here or by the caller, so that it can be sent
        again when the answer was lost: the Jupyter server knows it by then, and runs nothing twice.
        """
        body = {
            "task_id": task_id or str(uuid4()),
            "prompt": prompt,
            "extra_data": extra_data,
            "comfy_id": comfy_id,
        }
        return cast(TaskJson, _TWICE(self._ask, credential, "POST", "tasks", json=body))

    def tasks(self, credential: str, *, earlier: bool = False) -> list[TaskJson]:
        """Return this kernel's tasks; `earlier`: also those of its notebook's former kernels."""
        path = "tasks?earlier=true" if earlier else "tasks"
        return cast(list[TaskJson], self._ask(credential, "GET", path)["tasks"])

    def task(self, credential: str, task_id: str) -> TaskJson:
        """Return one task."""
        return cast(TaskJson, self._ask(credential, "GET", f"tasks/{task_id}"))

    def cancel(self, credential: str, task_id: str) -> TaskJson:
        """Ask for the end of a task; return it as it is now."""
        return cast(TaskJson, self._ask(credential, "POST", f"tasks/{task_id}/cancel", json={}))

    def file(self, credential: str, path: str) -> bytes:
        """Return the bytes of a task's file."""
        return self._send("GET", path, headers=_as(credential)).content

    def preview(self, credential: str, task_id: str) -> bytes:
        """Return the bytes of a task's newest preview."""
        return self.file(credential, f"{API}tasks/{task_id}/preview")

    def gateway(self, hello: HelloJson) -> str:
        """Return the absolute base URL of this kernel's gateway."""
        return urljoin(self.place.url, hello["gateway_path"])

    def object_info(self, hello: HelloJson) -> dict[str, Any]:
        """Return what the locked ComfyServer's node classes take and give."""
        response = self._send("GET", hello["gateway_path"] + "object_info")
        return cast(dict[str, Any], response.json())

    def view(self, hello: HelloJson, query: str) -> bytes:
        """Return the bytes of a file that ComfyUI's `GET /view?query` shows."""
        missing = "The ComfyServer has no such file, or it is not for this kernel to see."
        return self._send("GET", f"{hello['gateway_path']}view?{query}", missing=missing).content

    def upload(self, hello: HelloJson, name: str, content: bytes) -> str:
        """Put a file among the locked ComfyServer's inputs; return what it is called there."""
        path = hello["gateway_path"] + "upload/image"
        answer = self._send("POST", path, files={"image": (name, content)}).json()
        folder = answer.get("subfolder")
        return f"{folder}/{answer['name']}" if folder else str(answer["name"])

    def open_port(self, credential: str, number: int) -> int:
        """Open a port of this kernel's gateway on the Jupyter server's machine; return it."""
        answer = self._ask(credential, "PUT", "holders/me/port", json={"port": number})
        return cast(int, answer["port"])

    def close_port(self, credential: str) -> None:
        """Close the port, if one is open."""
        self._send("DELETE", API + "holders/me/port", headers=_as(credential))

    def debug(self, credential: str) -> dict[str, Any]:
        """Return all that is known there of this kernel."""
        return self._ask(credential, "GET", "holders/me/debug")

    def check(self, credential: str) -> dict[str, Any]:
        """Return what is wrong in the pool, as far as this kernel may know it."""
        return self._ask(credential, "GET", "check")

    def cleanup(self, credential: str, wish: Mapping[str, Any]) -> dict[str, Any]:
        """Release and cancel what a kernel has, or only say what that would be."""
        return self._ask(credential, "POST", "cleanup", json=wish)

    def cleanup_as_user(self, wish: Mapping[str, Any]) -> dict[str, Any]:
        """Do so as the Jupyter user, with whose token this process attached."""
        authorization = self.place.authorization()
        headers = {"Authorization": authorization} if authorization else {}
        return cast(
            dict[str, Any], self._send("POST", API + "cleanup", headers=headers, json=wish).json()
        )

    def selftest(self, credential: str, name: str | None) -> list[dict[str, Any]]:
        """Run the self-test; return what came of each trial."""
        with self._stream(
            "POST", API + "selftest", headers=_as(credential), json={"name": name}, timeout=TRIAL
        ) as response:
            return [json.loads(line)["trial"] for line in response.iter_lines() if line]

    @contextmanager
    def events(self, credential: str) -> Iterator[Iterator[ServerSentEvent]]:
        """Open the event stream; what it gives are its events, until it drops."""
        path = API + "events"
        headers = {
            **_as(credential),
            "Accept": "text/event-stream",
            "Cache-Control": "no-store",
        }
        with self._stream("GET", path, headers=headers, timeout=STREAM_TIMEOUT) as response:
            try:
                yield EventSource(response).iter_sse()
            except SSEError as error:
                msg = f"{self.place.url}{path} is no event stream: {error}"
                raise NoServerExtension(msg) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, credential: str, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        response = self._send(method, API + path, headers=_as(credential), **kwargs)
        return cast(dict[str, Any], response.json())

    def _send(
        self, method: str, path: str, *, missing: str | None = None, **kwargs: Any
    ) -> httpx.Response:
        """Send a request; `missing`: what a 404 means where it is about a file."""
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        if missing and response.status_code == httpx.codes.NOT_FOUND:
            raise UnknownFile(missing)
        self._check(response)
        return response

    @contextmanager
    def _stream(self, method: str, path: str, **kwargs: Any) -> Iterator[httpx.Response]:
        """Open an answer that is read as it comes; what goes wrong with it is told as ever."""
        try:
            with self._http.stream(method, path, **kwargs) as response:
                if not response.is_success:
                    response.read()
                self._check(response)
                yield response
        except httpx.TransportError as error:
            raise self._silent(error) from error

    def _wait_in_line(
        self, response: httpx.Response, on_waiting: Callable[[WaitingJson], None]
    ) -> tuple[LockedJson, bool]:
        for line in filter(None, response.iter_lines()):
            try:
                news = json.loads(line)
            except json.JSONDecodeError:
                break  # the connection was cut within the line
            if "error" in news:
                raise error_from_json(news["error"])
            if "lock" in news:
                return cast(LockedJson, news), True
            if "waiting" in news:
                on_waiting(news["waiting"])
        msg = "it closed the connection while this kernel waited in line"
        raise self._silent(httpx.ReadError(msg))

    def _silent(self, error: httpx.TransportError) -> NoServerExtension:
        hint = ""
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            hint = " Its certificate is not trusted here: set SSL_CERT_FILE to its authority's."
        why = str(error) or type(error).__name__
        return NoServerExtension(
            f"The Jupyter server at {self.place.url} (found by {self.place.found_by}) does not "
            f"answer: {why}.{hint} `jupyter server list` shows what runs on this machine.",
            url=self.place.url,
            silent=True,
        )

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        payload = _payload(response)
        if "code" in payload:
            raise error_from_json(payload)
        said = str(payload.get("message") or response.reason_phrase)
        if response.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            msg = (
                f"The server at {self.place.url} (found by {self.place.found_by}) is no Jupyter "
                "server with jupyter_comfy_lock. Install it where that server runs, see that "
                "`jupyter server extension list` shows it as enabled there, and restart the server."
            )
            raise NoServerExtension(msg, url=self.place.url)
        if response.status_code in (401, 403) or response.is_redirect:
            msg = (
                f"The Jupyter server at {self.place.url} does not accept {self._who()} "
                f"(HTTP {response.status_code})."
            )
            raise WrongCredential(msg, url=self.place.url)
        msg = (
            f"The Jupyter server at {self.place.url} failed ({said}, HTTP "
            f"{response.status_code}); its log says why."
        )
        raise ComfyLockError(msg, url=self.place.url)

    def _who(self) -> str:
        if self.place.kernel_id:
            return f"kernel {self.place.kernel_id}"
        if not self.place.token:
            return "a caller without a token (COMFY_LOCK_TOKEN is not set)"
        if self.place.found_by == "COMFY_LOCK_URL":
            return "the token in COMFY_LOCK_TOKEN"
        return "the token that belongs to " + self.place.found_by


def _as(credential: str) -> dict[str, str]:
    return {"Authorization": f"ComfyKernel {credential}"}


def _payload(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _transport(place: Place) -> httpx.BaseTransport | None:
    if place.uds:
        return httpx.HTTPTransport(uds=place.uds)
    if urlsplit(place.url).hostname in ("127.0.0.1", "localhost", "::1"):
        # A transport of our own keeps a proxy of the environment out of loopback calls.
        return httpx.HTTPTransport()
    return None
