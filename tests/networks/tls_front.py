"""TLS before a hub that serves plain HTTP alone: tls_front.py PORT HUB_PORT CERT KEY. Passes bytes, and knows no HTTP."""

import asyncio
import ssl
import sys


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main():
    port, hub, cert, key = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def accept(reader, writer):
        try:
            to_hub = await asyncio.open_connection("127.0.0.1", hub)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, to_hub[1]), pump(to_hub[0], writer))

    server = await asyncio.start_server(accept, "0.0.0.0", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
