"""The Titan orchestrator's protocol over TCP: programs that were written for it submit to a queue of the pool.

    titan dag gateway --store store/main

`wire.py` has the frames, `opcodes.py` what each opcode means here, `jobs.py` the jobs in their bodies, `desk.py` does
what is asked, and `gateway.py` is the server.
"""
