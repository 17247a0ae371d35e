//! Sockets: HTTP, WebSocket frames, sessions, pages.
