//! The shim's socket: requests in, replies out. Bounded in connections, line length and unsent bytes.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use crate::protocol::{Exit, REQUEST_LEN_MAX, Reply, Request, VERSION};

/// Connections at a time; a further one takes the place of the oldest.
const CONNECTIONS_MAX: usize = 8;

/// One connection.
pub struct Connection {
    stream: UnixStream,
    line: Vec<u8>,
    /// It asked to be told the end.
    is_waiting: bool,
}

impl Connection {
    /// Over a stream that does not block.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, line: Vec::new(), is_waiting: false }
    }

    /// What to wait for.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Reads what is there; the complete requests of it. `None`: the connection is to be closed.
    pub fn receive(&mut self) -> Option<Vec<Result<Request, String>>> {
        let mut buffer = [0; REQUEST_LEN_MAX];
        match self.stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(read) => self.line.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return None,
        }
        let mut requests = Vec::new();
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let rest = self.line.split_off(end + 1);
            let line = std::mem::replace(&mut self.line, rest);
            requests.push(serde_json::from_slice(&line).map_err(|error| format!("not a request: {error}")));
        }
        (self.line.len() <= REQUEST_LEN_MAX).then_some(requests)
    }

    /// Marks it as one that waits for the end.
    pub fn wait(&mut self) {
        self.is_waiting = true;
    }

    /// Sends one line. False: the connection is to be closed, also when the peer does not read.
    pub fn reply(&mut self, reply: Reply) -> bool {
        let mut line = serde_json::to_vec(&Reply { version: VERSION, ..reply }).unwrap_or_default();
        line.push(b'\n');
        self.stream.write_all(&line).is_ok()
    }
}

/// Takes new connections.
pub fn accept(listener: &UnixListener, connections: &mut Vec<Connection>) {
    while let Ok((stream, _)) = listener.accept() {
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        if connections.len() == CONNECTIONS_MAX {
            connections.remove(0);
        }
        connections.push(Connection::new(stream));
    }
}

/// Tells the end to all who wait for it, and to those who connected before the socket went away.
pub fn tell_end(listener: &UnixListener, connections: &mut Vec<Connection>, exit: &Exit) {
    accept(listener, connections);
    for connection in connections.iter_mut() {
        let asks = connection.receive().is_some_and(|requests| !requests.is_empty());
        if connection.is_waiting || asks {
            connection.reply(Reply { exit: Some(exit.clone()), ..Reply::default() });
        }
    }
}
