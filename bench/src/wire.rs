//! HTTP/1.1 in a few bytes, for what is measured beside others: a server that answers the same each time, and clients that ask
//! the same each time. Both do as little as can be done, so that what is between them is what costs.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use insula_env::{
    Clock, TaskGroup, clock,
    net::{self, TcpListener, TcpStream},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::report::percentile;

/// Longest body that is asked for.
const BODY_BYTES_MAX: usize = 1 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Serves on these addresses: `/N` is a body of N bytes, everything else one of none.
///
/// # Errors
/// When one is taken.
pub async fn serve(addresses: &[SocketAddr], tasks: &TaskGroup) -> Result<()> {
    for address in addresses {
        let listener = net::bind(*address).await.with_context(|| format!("listen on {address}"))?;
        let group = tasks.clone();
        tasks.spawn("listener", accept(listener, group));
    }
    std::future::pending().await
}

async fn accept(listener: TcpListener, tasks: TaskGroup) {
    // Ends with the program.
    while let Ok((stream, _)) = listener.accept().await {
        tasks.spawn("connection", async move {
            // Whoever asked may go away at any time.
            answer_all(stream).await.ok();
        });
    }
}

async fn answer_all(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(8 << 10);
    let (mut path, mut answer) = (Vec::new(), Vec::new());
    loop {
        let Some(end) = end_of_head(&buffer) else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = buffer.split_to(end);
        let asked = head.as_ref().split(|byte: &u8| *byte == b' ').nth(1).unwrap_or_default();
        if path != asked || answer.is_empty() {
            path = asked.to_vec();
            answer = answer_of(&path);
        }
        stream.write_all(&answer).await?;
    }
}

fn answer_of(path: &[u8]) -> Vec<u8> {
    let digits = path.strip_prefix(b"/").and_then(|digits| std::str::from_utf8(digits).ok());
    let len = digits.and_then(|digits| digits.parse::<usize>().ok()).unwrap_or(0).min(BODY_BYTES_MAX);
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + len, b'x');
    answer
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// What is asked for, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub target: SocketAddr,
    /// Of which host.
    pub host: String,
    /// Which path.
    pub path: String,
    /// From how many connections, kept.
    pub connections: usize,
    /// For how long.
    pub duration: Duration,
    /// How often a second, over all connections; as often as it goes without.
    pub rate: Option<f64>,
}

/// What came of it. One line of JSON of `insula-bench wire`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Answers with 200.
    pub good: u64,
    /// How many of them in a second.
    pub per_second: f64,
    /// Half of the requests took no longer, in microseconds; with a rate, from when each was due.
    pub p50_us: u64,
    /// And 99 of a hundred.
    pub p99_us: u64,
}

/// Asks until the time is over.
///
/// # Errors
/// When a connection breaks off, or an answer is not 200: nothing of the kind belongs here.
pub async fn ask(plan: Plan, tasks: &TaskGroup) -> Result<Seen> {
    ensure!(plan.connections > 0, "at least one connection is needed");
    let (failed, mut failures) = mpsc::channel(plan.connections);
    let took_us = Arc::new(Mutex::new(Vec::new()));
    let (plan, begun) = (Arc::new(plan), Clock::real().now());
    for number in 0..plan.connections {
        let (plan, took_us, failed) = (Arc::clone(&plan), Arc::clone(&took_us), failed.clone());
        tasks.spawn("client", async move {
            match ask_one(&plan, number, begun).await {
                Ok(own) => took_us.lock().extend(own),
                // Told once is enough.
                Err(error) => drop(failed.send(error).await),
            }
        });
    }
    drop(failed);
    if let Some(error) = failures.recv().await {
        return Err(error);
    }
    let mut took_us = std::mem::take(&mut *took_us.lock());
    took_us.sort_unstable();
    let good = took_us.len() as u64;
    let [p50_us, p99_us] = [50, 99].map(|percent| percentile(&took_us, percent));
    Ok(Seen { good, per_second: good as f64 / plan.duration.as_secs_f64(), p50_us, p99_us })
}

/// One connection's part: how long each request took.
async fn ask_one(plan: &Plan, number: usize, begun: clock::Instant) -> Result<Vec<u64>> {
    let clock = Clock::real();
    let mut stream = net::connect(plan.target, CONNECT_MAX).await.context("connect")?;
    let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", plan.path, plan.host);
    let period = plan.rate.map(|rate| Duration::from_secs_f64(plan.connections as f64 / rate));
    let (mut buffer, mut took_us) = (BytesMut::with_capacity(128 << 10), Vec::new());
    for turn in 0u32.. {
        let mut from = clock.now();
        if let Some(period) = period {
            let due = begun + period * turn + period.mul_f64(number as f64 / plan.connections as f64);
            if due > from {
                // The timer is coarse: what it is late by is not the target's.
                clock::sleep_until(due).await;
                from = clock.now();
            } else {
                from = due;
            }
        }
        if clock.now() - begun >= plan.duration {
            break;
        }
        stream.write_all(request.as_bytes()).await.context("ask")?;
        read_answer(&mut stream, &mut buffer).await?;
        took_us.push((clock.now() - from).as_micros() as u64);
    }
    Ok(took_us)
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<()> {
    buffer.clear();
    let mut whole = None;
    while whole.is_none_or(|len| buffer.len() < len) {
        ensure!(stream.read_buf(buffer).await.context("read an answer")? > 0, "an answer broke off");
        if whole.is_none()
            && let Some(end) = end_of_head(buffer)
        {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            ensure!(head.split(' ').nth(1) == Some("200"), "an answer is not good: {head}");
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
            whole = Some(end + length.context("an answer has no length")?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_get_what_the_server_says() {
        let tasks = TaskGroup::new("test");
        let free = net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("listen");
        let target = free.local_addr().expect("address");
        tasks.spawn("server", accept(free, tasks.clone()));
        let plan = |path: &str, rate| Plan {
            target,
            host: "a".to_owned(),
            path: path.to_owned(),
            connections: 4,
            duration: Duration::from_millis(200),
            rate,
        };
        for path in ["/", "/1024", "/65536"] {
            let seen = ask(plan(path, None), &tasks).await.expect(path);
            assert!(seen.good > 4 && seen.p50_us <= seen.p99_us, "{path}: {seen:?}");
        }
        let seen = ask(plan("/1", Some(100.0)), &tasks).await.expect("paced");
        assert!((16..=20).contains(&seen.good), "a hundred a second: {seen:?}");
        assert!(answer_of(b"/3").ends_with(b"\r\n\r\nxxx"));
    }
}
