"""The transports that come with apcrt, one module each.

A transport fulfils the contract of `apcrt.transport` and knows nothing else of apcrt: no PDUs, no calls, no APCs. It is
found by its entry point in the group `apcrt.transports`, so another distribution can add one without touching this
package. Nothing is imported here: a program pays only for the transport that its configuration names.
"""
