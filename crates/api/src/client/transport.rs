//! One request over one new connection. Calls are few, so nothing is pooled.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use insula_env::{Env, clock, net};
use insula_identity::server_name;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::ClientError;

/// How long connecting to one address may take, and then the TLS handshake: three round trips across the world and a
/// lost packet.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn over_socket<B>(
    env: &Env,
    path: &Path,
    request: Request<B>,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let stream = net::connect_unix(path, CONNECT_LIMIT).await;
    let stream = stream.map_err(|error| unreachable(&path.display().to_string(), &error))?;
    over(env, stream, request).await
}

pub(super) async fn over_tls<B>(
    env: &Env,
    address: &str,
    tls: &Arc<ClientConfig>,
    request: Request<B>,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let connect = async {
        let mut last = format!("{address:?} is not host:port");
        for resolved in tokio::net::lookup_host(address).await.map_err(|error| unreachable(address, &error))? {
            match net::connect(resolved, CONNECT_LIMIT).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error.to_string(),
            }
        }
        Err(ClientError::Unreachable { tried: vec![(address.to_owned(), last)] })
    };
    let stream = late(address, clock::timeout(CONNECT_LIMIT, connect).await)??;
    let shake = TlsConnector::from(Arc::clone(tls)).connect(server_name(), stream);
    let stream = late(address, clock::timeout(CONNECT_LIMIT, shake).await)?;
    over(env, stream.map_err(|error| unreachable(address, &error))?, request).await
}

fn late<T>(address: &str, result: Result<T, clock::Elapsed>) -> Result<T, ClientError> {
    let why = || vec![(address.to_owned(), format!("no answer within {CONNECT_LIMIT:?}"))];
    result.map_err(|_| ClientError::Unreachable { tried: why() })
}

async fn over<B>(
    env: &Env,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<B>,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let what = format!("{} {}", request.method(), request.uri());
    let cut_off = |source: hyper::Error| ClientError::CutOff { what: what.clone(), source: source.into() };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut_off)?;
    env.tasks.spawn("api call", async move {
        // What goes wrong here is told to the reader of the answer.
        connection.with_upgrades().await.ok();
    });
    sender.send_request(request).await.map_err(cut_off)
}

fn unreachable(address: &str, error: &dyn Error) -> ClientError {
    ClientError::Unreachable { tried: vec![(address.to_owned(), error.to_string())] }
}

/// A log as it comes.
pub struct LogReader {
    pub(super) body: Incoming,
    pub(super) what: String,
}

impl LogReader {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`ClientError::CutOff`] when the connection ends within.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(source)) => {
                    return Err(ClientError::CutOff { what: self.what.clone(), source: source.into() });
                }
            }
        }
    }
}
