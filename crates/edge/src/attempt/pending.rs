//! A request on its way, with what is needed to send it, and to send it again.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, Uri, Version, header, request::Parts, uri::Scheme};

use crate::{
    headers::{self, ClientAddress, Origin},
    request_id::Id,
    upgrade,
    upstream::{Outgoing, Streamed},
};

/// A request on its way.
pub(crate) struct Pending<'a> {
    /// As the client said it.
    pub parts: &'a Parts,
    pub id: Id,
    /// Counts the requests of the edge.
    pub number: u64,
    pub client: &'a ClientAddress,
    /// Whether the client's word counts on whom it asks for.
    pub is_trusted: bool,
    /// Whether another region's edge brought it.
    pub is_brought: bool,
    /// The protocol that it asks to switch to.
    pub protocol: Option<HeaderValue>,
    /// The client's half of that.
    pub half: Option<upgrade::ClientHalf>,
    /// Whether it is a call by gRPC.
    pub is_call: bool,
    /// A small body, whole.
    pub held: Bytes,
    /// Whether a body comes of which the length is not known.
    pub is_chunked: bool,
    pub rest: Rest,
    /// As it is sent by HTTP/1.1, small body and all, once that was needed.
    pub written: Option<Bytes>,
}

/// The rest of a request.
pub(crate) enum Rest {
    /// There is none: what is here can be sent any number of times.
    None,
    /// With the client: it can be sent until more of it has been taken than is kept.
    Client(Streamed),
    /// It was sent.
    Gone,
}

impl Pending<'_> {
    /// Whether it can be sent (again).
    pub(crate) fn can_be_sent(&self) -> bool {
        !matches!(self.rest, Rest::Gone)
    }

    /// The request for one try by HTTP/1.1.
    pub(super) fn outgoing(&mut self) -> Outgoing {
        let head = match &self.written {
            Some(written) => written.clone(),
            None => {
                let written = self.write();
                self.written.insert(written).clone()
            }
        };
        Outgoing::new(head, self.take_rest())
    }

    fn write(&self) -> Bytes {
        let target = self.parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut out = BytesMut::with_capacity(1024 + self.held.len());
        for part in [self.parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            out.put_slice(part.as_bytes());
        }
        self.of(|origin| headers::write(&self.parts.headers, origin, self.protocol.as_ref(), &mut out));
        let end: &[u8] = if self.is_chunked { b"transfer-encoding: chunked\r\n\r\n" } else { b"\r\n" };
        out.put_slice(end);
        // A small body costs less when it goes with the head.
        out.put_slice(&self.held);
        out.freeze()
    }

    /// The request for one try by HTTP/2.
    pub(super) fn framed(&self) -> Result<Request<()>, http::Error> {
        let mut request = Request::new(());
        *request.method_mut() = self.parts.method.clone();
        *request.version_mut() = Version::HTTP_2;
        let (headers, host) = self.of(|origin| {
            let host = origin.host.map(HeaderValue::as_bytes).unwrap_or_default();
            (headers::framed(&self.parts.headers, origin), host.to_vec())
        });
        *request.headers_mut() = headers;
        let target = self.parts.uri.path_and_query().map_or("/", |target| target.as_str());
        *request.uri_mut() = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(target).build()?;
        Ok(request)
    }

    /// Says where it comes from.
    fn of<T>(&self, work: impl FnOnce(&Origin<'_>) -> T) -> T {
        // The host of an absolute target is the one that counts; instances see it in the header.
        let authority = self.parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let host = authority.as_ref().or_else(|| self.parts.headers.get(header::HOST));
        work(&Origin {
            id: &self.id,
            client: self.client,
            is_trusted: self.is_trusted,
            is_brought: self.is_brought,
            host,
        })
    }

    /// The rest, for one try.
    pub(super) fn take_rest(&mut self) -> Option<Streamed> {
        match std::mem::replace(&mut self.rest, Rest::Gone) {
            Rest::Client(rest) => Some(rest),
            Rest::None => {
                self.rest = Rest::None;
                None
            }
            Rest::Gone => None,
        }
    }

    /// Takes the rest back, of which nothing counted.
    pub(super) fn take_back(&mut self, rest: Option<Streamed>) {
        if let Some(rest) = rest {
            self.rest = Rest::Client(rest);
        }
    }
}
