"""A terminal assistant that remembers: python examples/terminal.py --profile starter
Ctrl-C stops an answer; Ctrl-D (Windows: Ctrl-Z, Enter) leaves. / Ctrl-C는 답을 멈추고, Ctrl-D는 대화를 마칩니다.
"""

import argparse
import contextlib

from engine import Engine, EngineError, Session

with contextlib.suppress(ImportError):  # where Python has it, lines can be edited
    import readline  # noqa: F401


def answer(session: Session, text: str) -> None:
    with session.stream(text) as stream:  # leaving the block early stops the answer; what was written is kept
        for piece in stream:
            print(piece, end="", flush=True)
    print("", *(f"  (told · 떠올린 기억: {memory.text})" for memory in stream.reply.memories), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", help="default: $GIEOK_PROFILE / 모델 구성")
    try:
        engine = Engine(profile=parser.parse_args().profile)
    except EngineError as error:
        parser.error(str(error))
    with engine, contextlib.suppress(EOFError):
        session = engine.session("terminal")
        while True:
            try:
                for memory in session.news():  # found meanwhile in what was said before
                    print(f"  (remembered · 기억했어요: {memory.text})")
                if text := input("> ").strip():
                    answer(session, text)
            except KeyboardInterrupt:
                print(" (stopped · 멈췄습니다; Ctrl-D: 끝)")
            except EngineError as error:
                print(error)
