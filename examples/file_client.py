"""Fetch files at once over one connection, each on its own stream, and print their sizes and digests.

python examples/file_client.py ca.pem PORT /PATH...      (against: stoq serve DIR)
"""

import asyncio
import hashlib
import sys

import stoq


async def fetch(connection: stoq.Connection, path: str) -> str:
    stream = connection.open_stream()
    await stream.write(f"GET {path}\r\n".encode())
    stream.finish()
    digest, size = hashlib.sha256(), 0
    try:
        async for chunk in stream:
            digest.update(chunk)
            size += len(chunk)
    except stoq.errors.StreamReset as reset:
        return f"{path} refused with code {reset.error_code:#x}"
    return f"{path} {size} {digest.hexdigest()}"


async def main(ca_file: str, port: str, *paths: str) -> None:
    async with stoq.connect("127.0.0.1", int(port), alpn=["hq-interop"], ca_file=ca_file) as connection:
        for line in await asyncio.gather(*(fetch(connection, path) for path in paths)):
            print(line)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
