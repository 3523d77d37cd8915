"""apcrt on threads that have an event loop already: asyncio's, and one in the manner of Qt's."""
