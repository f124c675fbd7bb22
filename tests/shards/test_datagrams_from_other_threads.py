"""Datagrams that other threads send through a transport, which forwards them to its own."""

from support.programs import run_program

PROGRAM = """
import asyncio, os, socket, tempfile, threading
SENDERS, COUNT = 4, 500
async def main():
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder, \\
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        path = os.path.join(folder, "peer")
        peer.bind(path)
        peer.settimeout(20)
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, family=socket.AF_UNIX, remote_addr=path
        )
        def send(sender):
            for number in range(COUNT):
                transport.sendto(b"%d %d" % (sender, number))
        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS)]
        for thread in threads:
            thread.start()
        def receive():
            return [tuple(map(int, peer.recv(100).split())) for _ in range(SENDERS * COUNT)]
        received = await loop.run_in_executor(None, receive)
        for thread in threads:
            thread.join()
        for sender in range(SENDERS):
            numbers = [number for who, number in received if who == sender]
            assert numbers == list(range(COUNT)), numbers
        transport.close()
        await asyncio.sleep(0.01)
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
print("in order")
"""


def test_datagrams_of_each_thread_leave_in_its_order() -> None:
    outcome = run_program(PROGRAM, "rloop")
    assert (outcome.returncode, outcome.stdout) == (0, "in order\n"), outcome.stderr
