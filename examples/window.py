"""A window that streams an answer without freezing: python examples/window.py --profile starter
A thread reads the answers into a queue, which `pump` empties inside tkinter's loop: the thread touches no widget, and
the window never waits for the engine. / 답을 쓰는 동안에도 창은 멈추지 않고, '멈춤'과 닫기가 바로 듣습니다.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from queue import SimpleQueue
from threading import Thread

from engine import Engine, EngineError, Stream

Event = tuple[str, str]  # "text", "ready" or at last "closed", and what is to be shown


class Answering(Thread):
    """Reads one answer after the other, and closes the engine in the end."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="answering")
        self.events, self._asked = SimpleQueue[Event](), SimpleQueue[Stream | None]()
        self._engine, self._session = engine, engine.session("window")
        self._stream: Stream | None = None

    def ask(self, text: str) -> None:
        """Have a question answered; `stream` would wait for the model here, `astream` leaves that to who reads it."""
        self._stream = self._session.astream(text)
        self._asked.put(self._stream)

    def stop(self) -> None:
        if self._stream:
            self._stream.cancel()

    def leave(self) -> None:
        self.stop()
        self._asked.put(None)

    def run(self) -> None:
        try:
            while (stream := self._asked.get()) is not None:
                try:
                    for piece in stream:
                        self.events.put(("text", piece))
                except EngineError as error:
                    self.events.put(("text", f"[{error}]"))
                self.events.put(("ready", "\n\n"))
        finally:
            self._engine.close()  # may take a moment: not for the window's thread
            self.events.put(("closed", ""))


def pump(after: Callable[..., object], events: SimpleQueue[Event], handle: Callable[[str, str], object]) -> None:
    """Hand over the events that are there and come again `after` 30 ms, until "closed"."""
    for _ in range(events.qsize()):  # what comes meanwhile waits, so that a flood cannot hold the window up
        kind, text = events.get()
        handle(kind, text)
        if kind == "closed":
            return
    after(30, pump, after, events, handle)


class Window:
    def __init__(self, answering: Answering) -> None:
        from tkinter import Tk, scrolledtext, ttk

        self.root, self.answering = Tk(className="gieok"), answering
        self.root.protocol("WM_DELETE_WINDOW", self.close)
        self.said = scrolledtext.ScrolledText(self.root, wrap="word")
        self.said.pack(fill="both", expand=True)
        self.stop = ttk.Button(self.root, text="멈춤 Stop", command=answering.stop, state="disabled")
        self.stop.pack(side="right")
        self.entry = ttk.Entry(self.root)
        self.entry.pack(fill="x", expand=True)
        self.entry.bind("<Return>", self.send)

    def send(self, _event: object = None) -> None:
        if (text := self.entry.get().strip()) and self.stop.instate(["disabled"]):
            self.entry.delete(0, "end")
            self.handle("text", f"나: {text}\n")
            try:
                self.answering.ask(text)
                self.stop.configure(state="normal")
            except EngineError as error:  # a text that cannot be read
                self.handle("text", f"[{error}]\n\n")

    def close(self) -> None:
        self.root.withdraw()  # at once; the thread's last event does the rest
        self.answering.leave()

    def handle(self, kind: str, text: str) -> None:
        self.said.insert("end", text)
        self.said.see("end")
        if kind == "ready":
            self.stop.configure(state="disabled")
        elif kind == "closed":
            self.root.destroy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", help="default: $GIEOK_PROFILE / 모델 구성")
    profile = parser.parse_args().profile
    if not find_spec("_tkinter"):
        sys.exit("tkinter is missing / tkinter가 없습니다: sudo apt-get install python3-tk, brew install python-tk")
    try:
        window = Window(Answering(Engine(profile=profile)))
    except EngineError as error:
        sys.exit(str(error))
    signal.signal(signal.SIGINT, lambda *_: window.close())  # tkinter swallows a KeyboardInterrupt, and `pump` with it
    window.answering.start()
    pump(window.root.after, window.answering.events, window.handle)
    window.root.mainloop()


if __name__ == "__main__":
    main()
