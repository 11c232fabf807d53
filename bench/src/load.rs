//! Steady HTTP load: every target gets requests at an even rate, whatever became of earlier ones (an open loop, so that
//! a slow target does not slow its own measurement). What is in flight is bounded.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::Method;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use insula_env::{Clock, TaskGroup, clock, net};
use tokio::sync::mpsc;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::report::{Outcome, Record};

/// Longest body that is read.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Idle connections kept for a target.
const IDLE_MAX: usize = 64;

/// Bytes of the body of a POST.
const POST_LEN: usize = 20_000;
/// How long a WebSocket is kept open, and the time between two words on it.
const SOCKET_OPEN: Duration = Duration::from_secs(10);
const WORD_EVERY: Duration = Duration::from_millis(200);

/// What a visitor does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// GET
    #[default]
    Get,
    /// POST of a body that is too large to be kept for a second try
    Post,
    /// A WebSocket for ten seconds, with a word five times a second
    Socket,
}

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Connections {
    /// A new one for every request.
    New,
    /// As few as needed, used again.
    KeepAlive,
}

/// What load to make.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where requests go; each gets the whole rate.
    pub targets: Vec<SocketAddr>,
    /// Host asked for.
    pub host: String,
    /// Path asked for.
    pub path: String,
    /// Requests per second and target.
    pub rate: f64,
    /// How long requests are started. `None`: until stopped.
    pub duration: Option<Duration>,
    /// How long one request may take, its connection included.
    pub timeout: Duration,
    /// Requests in flight per target at most; one more is not sent, and recorded as such.
    pub in_flight_max: usize,
    /// How connections are used.
    pub connections: Connections,
    /// What is done.
    pub kind: Kind,
}

struct Target {
    load: Arc<Load>,
    address: SocketAddr,
    clock: Clock,
    tasks: TaskGroup,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    in_flight: AtomicUsize,
}

/// Load that is being made.
#[derive(Debug)]
pub struct Running {
    /// A record of each request, when it ended. Ends after the last.
    pub records: mpsc::Receiver<Record>,
    drivers: TaskGroup,
}

impl Running {
    /// Starts no more requests; those in flight still end.
    pub fn stop(&self) {
        self.drivers.stop();
    }
}

/// Makes the load, with tasks of that group.
///
/// # Errors
/// A load that cannot be: no target, a rate that is no positive number.
pub fn start(load: Load, clock: &Clock, tasks: &TaskGroup) -> anyhow::Result<Running> {
    anyhow::ensure!(!load.targets.is_empty(), "no target was given");
    anyhow::ensure!(load.rate.is_finite() && load.rate > 0.0, "the rate must be a positive number");
    let (records, received) = mpsc::channel(load.targets.len() * (load.in_flight_max + 1));
    let load = Arc::new(load);
    let drivers = tasks.child("drivers");
    for (index, address) in load.targets.iter().copied().enumerate() {
        let target = Arc::new(Target {
            load: Arc::clone(&load),
            address,
            clock: clock.clone(),
            tasks: tasks.clone(),
            idle: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        });
        // Targets take turns, so that their requests do not come in bursts.
        let offset = Duration::from_secs_f64(index as f64 / (load.rate * load.targets.len() as f64));
        drivers.spawn("load", drive(target, offset, records.clone()));
    }
    Ok(Running { records: received, drivers })
}

async fn drive(target: Arc<Target>, offset: Duration, records: mpsc::Sender<Record>) {
    let start = target.clock.now() + offset;
    let period = Duration::from_secs_f64(1.0 / target.load.rate);
    for turn in 0u32.. {
        let due = period * turn;
        if target.load.duration.is_some_and(|duration| due >= duration) {
            break;
        }
        clock::sleep_until(start + due).await;
        if target.in_flight.fetch_add(1, Ordering::Relaxed) >= target.load.in_flight_max {
            target.in_flight.fetch_sub(1, Ordering::Relaxed);
            let now = target.clock.wall_ms();
            let record = Record::new(target.address, now, now, Outcome::NotSent);
            if records.send(record).await.is_err() {
                return;
            }
            continue;
        }
        let (target, records) = (Arc::clone(&target), records.clone());
        let tasks = target.tasks.clone();
        tasks.spawn("request", async move {
            let record = request(&target).await;
            target.in_flight.fetch_sub(1, Ordering::Relaxed);
            // The receiver is gone only when nobody wants to know.
            records.send(record).await.ok();
        });
    }
}

async fn request(target: &Target) -> Record {
    let (start, start_ms) = (target.clock.now(), target.clock.wall_ms());
    let mut record = match clock::timeout(target.load.timeout, exchange(target)).await {
        Ok(Ok((200, body))) => Record::answered(target.address, start_ms, &body),
        Ok(Ok((status, body))) => {
            let mut record = Record::new(target.address, start_ms, start_ms, Outcome::Status(status));
            record.detail = Some(body.chars().take(200).collect());
            record
        }
        Ok(Err(error)) => {
            let mut record = Record::new(target.address, start_ms, start_ms, Outcome::Failed);
            record.detail = Some(format!("{error:#}"));
            record
        }
        Err(_) => Record::new(target.address, start_ms, start_ms, Outcome::TimedOut),
    };
    record.latency_us = (target.clock.now() - start).as_micros() as u64;
    record.end_ms = start_ms + record.latency_us.div_ceil(1000);
    record
}

async fn exchange(target: &Target) -> anyhow::Result<(u16, String)> {
    let load = &target.load;
    let (method, body) = match load.kind {
        Kind::Get => (Method::GET, Bytes::new()),
        Kind::Post => (Method::POST, Bytes::from(vec![b'x'; POST_LEN])),
        Kind::Socket => return socket(target).await.map(|text| (200, text)),
    };
    let (mut sender, is_used) = connection(target).await?;
    let request = || {
        let request = http::Request::builder().method(&method).uri(&load.path).header(http::header::HOST, &load.host);
        request.body(Full::new(body.clone()))
    };
    let mut response = sender.send_request(request()?).await;
    // A connection that was closed while the request was on its way: clients of the world try once more, where that is safe
    // (RFC 9110, section 9.2.2).
    if response.is_err() && is_used && load.kind == Kind::Get {
        sender = fresh(target).await?;
        response = sender.send_request(request()?).await;
    }
    let response = response.context("send the request")?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?.to_bytes();
    if load.connections == Connections::KeepAlive {
        keep(target, sender);
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Talks on a WebSocket for a while. Fails when it does not end by word of one side; what it said first is given.
async fn socket(target: &Target) -> anyhow::Result<String> {
    let load = &target.load;
    let stream = net::connect(target.address, load.timeout).await.context("connect")?;
    let uri = format!("ws://{}{}", load.host, load.path);
    let (mut socket, _) = client_async(uri.into_client_request()?, stream).await.context("open a WebSocket")?;
    let begun = target.clock.now();
    let mut words = 0;
    while target.clock.now() - begun < SOCKET_OPEN {
        socket.send(Message::text(words.to_string())).await.context("say a word")?;
        match socket.next().await.context("the WebSocket was cut off")?.context("hear a word")? {
            Message::Text(heard) => anyhow::ensure!(heard.as_str() == words.to_string(), "heard another word: {heard}"),
            // Told that the other side goes away.
            Message::Close(_) => {
                socket.close(None).await.ok();
                return Ok(String::new());
            }
            _ => {}
        }
        words += 1;
        clock::sleep(WORD_EVERY).await;
    }
    socket.close(None).await.context("close")?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(String::new())
}

/// An idle connection that still stands, or a new one; and whether it was used before.
async fn connection(target: &Target) -> anyhow::Result<(SendRequest<Full<Bytes>>, bool)> {
    while let Some(mut sender) = take(target) {
        if sender.ready().await.is_ok() {
            return Ok((sender, true));
        }
    }
    Ok((fresh(target).await?, false))
}

async fn fresh(target: &Target) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = net::connect(target.address, target.load.timeout).await.context("connect")?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.context("begin HTTP")?;
    target.tasks.spawn("connection", async move {
        // How it ended is told to whoever waits for an answer on it.
        driver.await.ok();
    });
    Ok(sender)
}

fn take(target: &Target) -> Option<SendRequest<Full<Bytes>>> {
    target.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
}

fn keep(target: &Target, sender: SendRequest<Full<Bytes>>) {
    let mut idle = target.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if idle.len() < IDLE_MAX {
        idle.push(sender);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{Response, server::conn::http1 as server, service::service_fn};

    use super::*;
    use crate::Summary;

    /// Answers 200 and counts connections.
    async fn serve(tasks: &TaskGroup) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("listen");
        let address = listener.local_addr().expect("address");
        let count = Arc::new(AtomicUsize::new(0));
        let (counted, group) = (Arc::clone(&count), tasks.clone());
        tasks.spawn("serve", async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                group.spawn("answer", async move {
                    let answer =
                        service_fn(|_| async { Ok::<_, Infallible>(Response::new("instance=i1 node=n1".to_owned())) });
                    server::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
                });
            }
        });
        (address, count)
    }

    fn load(targets: Vec<SocketAddr>, connections: Connections) -> Load {
        Load {
            targets,
            host: "shop.example".to_owned(),
            path: "/".to_owned(),
            rate: 200.0,
            duration: Some(Duration::from_millis(250)),
            timeout: Duration::from_secs(10),
            in_flight_max: 100,
            connections,
            kind: Kind::Get,
        }
    }

    #[tokio::test]
    async fn every_request_is_recorded_and_connections_are_kept_or_not() {
        let tasks = TaskGroup::new("test");
        for (connections, kept) in [(Connections::New, false), (Connections::KeepAlive, true)] {
            let (good, count) = serve(&tasks).await;
            // A port that was just closed refuses.
            let refusing = net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("listen");
            let bad = refusing.local_addr().expect("address");
            drop(refusing);
            let mut running = start(load(vec![good, bad], connections), &Clock::real(), &tasks).expect("start");
            let mut summary = Summary::default();
            while let Some(record) = running.records.recv().await {
                summary.add(&record);
            }
            let finished = summary.finish();
            let (good, bad) = (&finished[&good], &finished[&bad]);
            assert_eq!((good.sent, good.failed, good.instances.len()), (50, 0, 1));
            assert_eq!((bad.sent, bad.failed), (50, 50));
            assert_eq!(count.load(Ordering::Relaxed) < 50, kept);
        }
        assert!(tasks.join(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn load_stops_and_is_bounded() {
        let tasks = TaskGroup::new("test");
        // Listens and never answers.
        let silent = net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("listen");
        let mut endless = load(vec![silent.local_addr().expect("address")], Connections::New);
        (endless.duration, endless.in_flight_max, endless.timeout) = (None, 3, Duration::from_millis(500));
        let mut running = start(endless, &Clock::real(), &tasks).expect("start");
        let first = running.records.recv().await.expect("a record");
        assert_eq!(first.outcome, Outcome::NotSent);
        running.stop();
        let mut late = 0;
        while let Some(record) = running.records.recv().await {
            late += usize::from(record.outcome == Outcome::TimedOut);
        }
        assert_eq!(late, 3);
        assert!(start(load(Vec::new(), Connections::New), &Clock::real(), &tasks).is_err());
    }
}
