//! Peers that speak HTTP/2 without TLS: an instance, and a client. Frames are what `h2` makes of them; who does what is here.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, SendRequest},
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use insula_env::{
    Env, TaskGroup,
    clock::{sleep, timeout},
    net::{self, TcpStream},
};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{BIG_BYTES, Instance, LIMIT, LOCALHOST, Seen};

/// Streams that an instance takes at a time.
pub const INSTANCE_STREAMS_MAX: u32 = 50;

/// Starts an instance that speaks HTTP/2 and does what the path says.
pub async fn start(number: u64) -> Instance {
    let env = Env::real("framed instance");
    let listener = net::bind(LOCALHOST).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let open = Arc::<AtomicU64>::default();
    let (tasks, kept, counted) = (env.tasks.clone(), Arc::clone(&seen), Arc::clone(&open));
    env.tasks.spawn("instance", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (kept, counted, group) = (Arc::clone(&kept), Arc::clone(&counted), tasks.clone());
            counted.fetch_add(1, Ordering::Relaxed);
            tasks.spawn("connection", async move {
                serve(stream, number, &kept, &group).await.ok();
                counted.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Instance { number, env, address, seen, open, held: Arc::new(tokio::sync::Semaphore::new(0)) }
}

async fn serve(
    stream: TcpStream,
    number: u64,
    kept: &Arc<Mutex<Vec<Seen>>>,
    tasks: &TaskGroup,
) -> Result<(), h2::Error> {
    let mut builder = server::Builder::new();
    let mut connection = builder.max_concurrent_streams(INSTANCE_STREAMS_MAX).handshake::<_, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        match request.uri().path() {
            // Gone at once, without a word.
            "/die" => {
                keep(kept, &request, Vec::new());
                return Ok(());
            }
            "/refused" if number == 1 => {
                respond.send_reset(Reason::REFUSED_STREAM);
                continue;
            }
            // No more than that one.
            "/last" => connection.graceful_shutdown(),
            _ => {}
        }
        let kept = Arc::clone(kept);
        tasks.spawn("stream", async move {
            converse(request, respond, number, &kept).await.ok();
        });
    }
    Ok(())
}

/// Starts an instance that answers the first request of each connection, and to the second says that the first was the last that
/// counted: by GOAWAY, as servers do that close idle or old connections.
pub async fn start_with_goaway(number: u64) -> Instance {
    let env = Env::real("framed instance");
    let listener = net::bind(LOCALHOST).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let (tasks, kept) = (env.tasks.clone(), Arc::clone(&seen));
    env.tasks.spawn("instance", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            tasks.spawn("connection", async move {
                answer_one(stream, &kept).await.ok();
            });
        }
    });
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    Instance { number, env, address, seen, open: Arc::default(), held }
}

/// Frame by frame: `h2` would count the second request, too.
async fn answer_one(mut stream: TcpStream, kept: &Mutex<Vec<Seen>>) -> io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await?;
    let mut head = [0; 9];
    loop {
        stream.read_exact(&mut head).await?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; len]).await?;
        match (head[3], head[8]) {
            // SETTINGS is acknowledged.
            (4, _) if head[4] == 0 => stream.write_all(b"\0\0\0\x04\x01\0\0\0\0").await?,
            // HEADERS of the first request: `:status: 200`, and the end.
            (1, 1) => {
                kept.lock().push(Seen { head: "answered".to_owned(), body: Vec::new() });
                stream.write_all(b"\0\0\x01\x01\x05\0\0\0\x01\x88").await?;
            }
            (1, _) => {
                kept.lock().push(Seen { head: "not counted".to_owned(), body: Vec::new() });
                stream.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0").await?;
                // All that is on its way is read, so that the end is no reset.
                stream.shutdown().await?;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Ok(());
            }
            _ => {}
        }
    }
}

fn keep(kept: &Mutex<Vec<Seen>>, request: &Request<RecvStream>, body: Vec<u8>) {
    let mut head = format!("{} {}\r\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    }
    kept.lock().push(Seen { head, body });
}

async fn converse(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    number: u64,
    kept: &Mutex<Vec<Seen>>,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    let head = |status: u16| Response::builder().status(status);
    let call = || head(200).header("content-type", "application/grpc").body(()).expect("good");
    let name = Bytes::from(format!("instance {number}"));
    match path.as_str() {
        "/shop.Cart/Talk" => {
            keep(kept, &request, Vec::new());
            let mut out = respond.send_response(call(), false)?;
            let mut body = request.into_body();
            let mut bytes = 0;
            while let Some(data) = body.data().await {
                let data = data?;
                bytes += data.len();
                body.flow_control().release_capacity(data.len())?;
                put(&mut out, data).await?;
            }
            let sum = body.trailers().await?.and_then(|trailers| trailers.get("x-sum").cloned());
            let mut trailers = outcome("0");
            trailers.insert("x-bytes", HeaderValue::from(bytes));
            trailers.extend(sum.map(|sum| (http::HeaderName::from_static("x-sum"), sum)));
            return out.send_trailers(trailers);
        }
        // Says much, and hears everything at the same time.
        "/shop.Cart/Gather" => {
            keep(kept, &request, Vec::new());
            let mut out = respond.send_response(call(), false)?;
            let mut body = request.into_body();
            let say = put(&mut out, Bytes::from(vec![b'x'; 256 << 10]));
            let gather = async {
                let mut bytes = 0;
                while let Some(data) = body.data().await {
                    let data = data?;
                    bytes += data.len();
                    body.flow_control().release_capacity(data.len())?;
                }
                Ok::<_, h2::Error>(bytes)
            };
            let (said, bytes) = tokio::join!(say, gather);
            said?;
            let mut trailers = outcome("0");
            trailers.insert("x-bytes", HeaderValue::from(bytes?));
            return out.send_trailers(trailers);
        }
        // Fails: among the trailers, or at once.
        "/shop.Cart/Fail" => {
            keep(kept, &request, Vec::new());
            let mut out = respond.send_response(call(), false)?;
            out.send_data(Bytes::from_static(b"half"), false)?;
            return out.send_trailers(outcome("14"));
        }
        "/shop.Cart/FailAtOnce" => {
            let mut call = call();
            call.headers_mut().extend(outcome("13"));
            return respond.send_response(call, true).map(|_| ());
        }
        "/silent" | "/shop.Cart/Silent" => {
            keep(kept, &request, Vec::new());
            std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            kept.lock().push(Seen { head: format!("{path} was taken back"), body: Vec::new() });
            return Ok(());
        }
        "/cut" => {
            let mut out = respond.send_response(head(200).body(()).expect("good"), false)?;
            put(&mut out, Bytes::from_static(b"half")).await?;
            sleep(Duration::from_millis(50)).await;
            out.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Ok(());
        }
        "/big" => {
            let mut out = respond.send_response(head(200).body(()).expect("good"), false)?;
            for _ in 0..BIG_BYTES >> 16 {
                put(&mut out, Bytes::from(vec![b'x'; 1 << 16])).await?;
            }
            return out.send_data(Bytes::new(), true);
        }
        // Answers before it has the body, and wants no more of it.
        "/eager" => {
            respond.send_response(head(413).body(()).expect("good"), true)?;
            return Ok(());
        }
        "/slow" => {
            keep(kept, &request, Vec::new());
            sleep(Duration::from_millis(300)).await;
        }
        _ => {}
    }
    let (parts, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let request = Request::from_parts(parts, stream);
    if path != "/slow" {
        keep(kept, &request, body.clone());
    }
    let reply = if path == "/echo" { Bytes::from(body) } else { name };
    let response = head(200).header("x-hop", "1").header("content-length", reply.len()).body(()).expect("good");
    let is_head = request.method() == http::Method::HEAD;
    let mut out = respond.send_response(response, is_head)?;
    if is_head {
        return Ok(());
    }
    put(&mut out, reply).await?;
    out.send_data(Bytes::new(), true)
}

fn outcome(number: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(number));
    trailers
}

/// Sends bytes as fast as the other side takes them.
pub async fn put(out: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        if out.capacity() == 0 {
            let room = std::future::poll_fn(|cx| out.poll_capacity(cx)).await;
            room.unwrap_or_else(|| Err(Reason::CANCEL.into()))?;
        }
        let len = out.capacity().min(data.len());
        out.send_data(data.split_to(len), false)?;
    }
    Ok(())
}

/// A client's connection.
pub struct Client {
    pub sender: SendRequest<Bytes>,
    env: Env,
    /// How the connection ended.
    pub ended: tokio::sync::oneshot::Receiver<Result<(), h2::Error>>,
}

/// What came of a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The outcome of a call.
    pub fn outcome(&self) -> Option<&str> {
        self.trailers.get("grpc-status").or(self.headers.get("grpc-status"))?.to_str().ok()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &mut client::Builder::new()).await.expect("HTTP/2")
    }

    /// One that says other things of itself.
    pub async fn with(address: SocketAddr, builder: &mut client::Builder) -> io::Result<Self> {
        let env = Env::real("framed client");
        let stream = net::connect(address, LIMIT).await?;
        let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(io::Error::other)?;
        let (tell, ended) = tokio::sync::oneshot::channel();
        env.tasks.spawn("client", async move {
            tell.send(connection.await).ok();
        });
        Ok(Self { sender, env, ended })
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer, h2::Error> {
        self.ask(request("GET", path), b"").await
    }

    /// A request with its whole body.
    pub async fn ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let (response, out) = self.begin(request, body.is_empty()).await?;
        let body = Bytes::copy_from_slice(body);
        let send = async {
            if let Some(mut out) = out.filter(|_| !body.is_empty()) {
                // What the answer says counts more than that not all was taken.
                if put(&mut out, body.clone()).await.is_ok() {
                    out.send_data(Bytes::new(), true).ok();
                }
            }
        };
        let both = async { tokio::join!(send, response).1 };
        read(timeout(LIMIT, both).await.expect("an answer in time")?).await
    }

    /// Begins a request: what will be its response, and the way for its body.
    pub async fn begin(
        &mut self,
        request: Request<()>,
        is_over: bool,
    ) -> Result<(client::ResponseFuture, Option<SendStream<Bytes>>), h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, out) = sender.send_request(request, is_over)?;
        Ok((response, Some(out)))
    }

    /// Goes away without a word.
    pub fn kill(&self) {
        self.env.tasks.crash();
    }
}

pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://shop.example{path}")).body(()).expect("good")
}

/// A call by gRPC.
pub fn call(path: &str) -> Request<()> {
    let mut request = request("POST", path);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    request
}

/// All of a response.
pub async fn read(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    let all = async {
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        stream.trailers().await
    };
    let trailers = timeout(LIMIT, all).await.expect("a body in time")?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers: trailers.unwrap_or_default() })
}
