"""Where the counters of a transport stream jump: inside a picture, or between two.

Each packet of a stream has the number of the one before it plus one, modulo 16. A jump means that
packets are lost there, or that two recordings were joined there.
"""

PACKET = 188


def breaks_picture(data: bytes, *, trusted: bool) -> bool:
    """Return whether a counter jumps inside a picture, so that a part of it is missing.

    A picture is whole if the next one begins at the jump and its own last packet is padded. About
    one picture in 184 needs no padding.

    Args:
        data: packets from the beginning of a picture on; the stream of the first packet counts.
        trusted: whether a picture without padding counts as whole.
    """
    stream: int | None = None
    last, padded = -1, False
    for at in range(0, len(data) - PACKET + 1, PACKET):
        sync, high, low, flags = data[at : at + 4]
        if sync != 0x47:
            return True
        this = (high & 0x1F) << 8 | low
        stream = this if stream is None else stream
        if this != stream or not flags & 0x10:  # a packet without payload has no number of its own
            continue
        number, begins = flags & 0xF, high & 0x40
        if (
            last >= 0
            and number not in (last, (last + 1) % 16)
            and not (begins and (padded or trusted))
        ):
            return True
        last, padded = number, bool(flags & 0x20)
    return False
