"""A client in a process of its own: takes the acquisition of a plan, and prints how it ended.

``take.py COMMANDS STATE KEY PLAN``: endpoints of a conductor, the client's private key, MessagePack of the plan.
"""

import asyncio
import sys
import uuid
from pathlib import Path

import msgspec

from lima2_receivers.client import ConductorClient
from lima2_receivers.plan import AcquisitionPlan

SECONDS = 60.0


def _is_whole(client: ConductorClient) -> bool:
    return client.state is not None and all(receiver.alive for receiver in client.state.receivers)


async def take(commands: str, state: str, key: Path, plan: AcquisitionPlan) -> str:
    """Take an acquisition, and return the JSON of how it ended."""
    client = ConductorClient(commands, state, timeout=10.0, key=key)
    await client.connect()
    try:
        acquisition = uuid.uuid4().hex
        async with asyncio.timeout(SECONDS):
            while not _is_whole(client):  # noqa: ASYNC110 - as simple as it gets
                await asyncio.sleep(0.05)
            await client.prepare(acquisition, plan)
            await client.start(acquisition)
            sys.stdout.write("started\n")
            sys.stdout.flush()
            while True:
                found = [one for one in client.state.acquisitions if one.acquisition == acquisition]
                if found and found[0].state == "closed":
                    break
                await asyncio.sleep(0.02)
        return msgspec.json.encode(found[0]).decode()
    finally:
        await client.close()


if __name__ == "__main__":
    where, plan = sys.argv[1:3], msgspec.msgpack.decode(Path(sys.argv[4]).read_bytes(), type=AcquisitionPlan)
    sys.stdout.write(asyncio.run(take(*where, Path(sys.argv[3]), plan)) + "\n")
