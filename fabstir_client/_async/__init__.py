"""The client for trio and asyncio."""
