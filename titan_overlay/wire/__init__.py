"""What crosses a socket: bodies of frames and datagrams as values and as bytes."""
