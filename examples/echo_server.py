"""An echo server: whatever a client sends on a stream comes back on it.

python examples/echo_server.py cert.pem key.pem [PORT]
"""

import asyncio
import sys

import stoq


async def echo(stream: stoq.Stream) -> None:
    async for chunk in stream:
        await stream.write(chunk)  # waits while the client does not read
    stream.finish()


async def handle(connection: stoq.Connection) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for stream in connection:
            tasks.create_task(echo(stream))


async def main(certificate: str, private_key: str, port: str = "4433") -> None:
    server = await stoq.serve(
        handle, "127.0.0.1", int(port), alpn=["echo"], certificate=certificate, private_key=private_key
    )
    print("listening on port", server.sockname[1], flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
