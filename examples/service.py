"""A chat service on this machine: python examples/service.py --profile starter --port 8765

    curl -N 127.0.0.1:8765/chat -H 'Content-Type: application/json' -d '{"message": "안녕하세요", "session": "민지"}'

The answer is lines of JSON: {"piece": …} while it is written, at the end {"reply": …} or {"error": …, "message": …}.
A client that goes away stops its answer. Ctrl-C and SIGTERM let answers go on for --grace seconds, then cut them. There
is no login: who can reach the port can talk, so it is 127.0.0.1 only. / 답이 JSON 줄로 오고, 연결을 끊으면 멈춥니다.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from weakref import WeakSet

from engine import Engine, EngineError, Stream

MOST = 1 << 20  # bytes of a request's body
PATIENCE = 10.0  # seconds in which a client has sent its request
HEAD = "HTTP/1.1 {}\r\nContent-Type: application/x-ndjson; charset=utf-8\r\nConnection: close\r\n\r\n"


async def request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """Read an HTTP request; return the status of the answer, and what the body asks."""
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    if not first.startswith("POST /chat "):
        return "404 Not Found", {}
    # a web page cannot have a browser send these two, so none can talk in its visitor's name
    if fields.get("content-type", "").partition(";")[0] != "application/json":
        return "415 Unsupported Media Type", {}
    if fields.get("host", "").partition(":")[0] not in {"127.0.0.1", "localhost"}:
        return "403 Forbidden", {}
    if not 0 <= (length := int(fields.get("content-length", "-1"))) <= MOST:
        return "413 Content Too Large", {}
    asked = json.loads(await reader.readexactly(length))
    fits = isinstance(asked, dict) and "message" in asked and all(isinstance(text, str) for text in asked.values())
    return ("200 OK", asked) if fits else ("400 Bad Request", {})


class Service:
    """Answers clients, several at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._streams: WeakSet[Stream] = WeakSet()  # the answers that are being written

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        try:
            async with asyncio.timeout(PATIENCE):
                status, asked = await request(reader)
        except (EOFError, OSError, ValueError, RecursionError, asyncio.LimitOverrunError):
            status, asked = "400 Bad Request", {}
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.write(HEAD.format(status).encode())
            if asked:
                answering = asyncio.create_task(self._answer(asked, writer))
                gone = asyncio.create_task(until_gone(reader))
                gone.add_done_callback(lambda _: answering.cancel())
                await answering
                gone.cancel()

    async def _answer(self, asked: dict[str, str], writer: asyncio.StreamWriter) -> None:
        def say(**value: object) -> None:
            writer.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")

        try:
            session = await self._engine.asession(asked.get("session", "default"))
            stream = session.astream(asked["message"])
            self._streams.add(stream)
            async with stream:
                async for piece in stream:
                    say(piece=piece)
                    await writer.drain()
            say(reply=stream.reply.to_dict())
        except EngineError as error:
            say(error=error.code, message=str(error))

    async def finish(self, grace: float) -> None:
        """Let answers go on for so many seconds, then cut them."""
        if clients := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(clients, timeout=grace)
            for stream in list(self._streams):
                stream.cancel()
            await asyncio.wait(clients, timeout=1)


async def until_gone(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1024):  # nothing that it sends now is a request
            pass


async def serve(arguments: argparse.Namespace) -> None:
    loop, leave = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # Windows has no `loop.add_signal_handler`
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(leave.set))
    async with Engine(profile=arguments.profile) as engine:
        service = Service(engine)
        server = await asyncio.start_server(service.client, "127.0.0.1", arguments.port)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/chat", flush=True)
        await leave.wait()
        server.close()
        await service.finish(arguments.grace)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="default: $GIEOK_PROFILE / 모델 구성")
    parser.add_argument("--port", type=int, default=8765, help="0: any that is free / 0이면 빈 포트")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds / 끝낼 때 기다리는 초")
    try:
        asyncio.run(serve(parser.parse_args()))
    except (EngineError, OSError) as error:
        sys.exit(str(error))
