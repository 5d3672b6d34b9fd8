"""Programs over the rooms: the command line, an MCP server, and the chat application (`situate.app.web`)."""
