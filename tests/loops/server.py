"""An IMAP server that greets nobody until COUNT clients are connected at once and the file named exists.
Prints its port. Ends when standard input does."""

import asyncio
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "spec/support"))
from control import free_port

COUNT, GO = int(sys.argv[1]), sys.argv[2]
connected = 0
released = asyncio.Event()


async def serve(reader, writer):
    global connected
    connected += 1
    try:
        await released.wait()
        writer.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
        while line := await reader.readline():
            tag, _, command = line.partition(b" ")
            if command.upper().startswith(b"CAPABILITY"):
                writer.write(b"* CAPABILITY IMAP4rev1\r\n")
            writer.write(tag + b" OK done\r\n")
            if command.upper().startswith(b"LOGOUT"):
                break
    except OSError:
        pass
    finally:
        connected -= 1
        writer.close()


async def main():
    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=512)
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    async with server:
        while not ended.done():
            if connected >= COUNT and os.path.exists(GO):
                released.set()
            elif connected == 0:
                # For the next run.
                released.clear()
            await asyncio.sleep(0.01)


asyncio.run(main())
