"""What a process of its own is asked to do by a test; it imports this module and nothing else."""


def fill(mebibytes: int) -> int:
    return len(bytearray(b"x") * (mebibytes << 20))
