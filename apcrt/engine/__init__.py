"""Connections in motion: drives the wire's state machines over a transport.

What lives here: the I/O thread, connections (client and server), the connection pool of a binding, dispatch threads,
listeners, and the buffers that are lent to them. What must not: values (stub data is bytes here), interfaces,
notifications and whatever else a user of calls sees; that is `apcrt.rpc`, which fills `engine.exchange.Exchange`.

How it works. The caller does the work: sends and receives are tried inline, on the thread that asks for them. What
would block is armed in the Port of the connection's *home*, the thread that all completions of its call go to, and
happens when that thread waits. What nobody waits for is the I/O thread's. Locks are taken in the order pool,
connection, dispatcher; no user code, system-call wake or log line runs under any of them.
"""
