"""Send a line to the echo server and print what comes back.

python examples/echo_client.py ca.pem PORT TEXT
"""

import asyncio
import sys

import stoq


async def main(ca_file: str, port: str, text: str) -> None:
    async with stoq.connect("127.0.0.1", int(port), alpn=["echo"], ca_file=ca_file) as connection:
        stream = connection.open_stream()
        await stream.write(text.encode())
        stream.finish()
        print((await stream.read()).decode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
