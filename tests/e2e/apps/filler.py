"""Bodies for the Python apps. Their bytes read like HTTP, so that whoever looks for messages inside bodies
finds some."""

FILLER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n"

# Lengths that chunks come in, in turn: smaller than a line, larger than a buffer.
CHUNKS = (1, 7, 1000, 16384, 40000)

ITEMS = 1000


def filler(length):
    return (FILLER * (length // len(FILLER) + 1))[:length]


def chunks(length):
    turn = 0
    while length > 0:
        size = min(CHUNKS[turn % len(CHUNKS)], length)
        yield filler(size)
        length -= size
        turn += 1


def item(id):
    return {"id": id, "name": f"item {id}", "price": id / 4}
