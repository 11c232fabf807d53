//! Is a peer there? One long-lived connection with pings; the verdict is a pure state machine.
//!
//! ```text
//!            pong                    4 pings unanswered, or a reset
//! Unknown ─────────► Good ─────────────────────────────────────────► Bad
//!    │                 ▲                                              │
//!    │                 └───────────────── 2 pongs in a row ───────────┤
//!    └──────────── 4 pings unanswered, or a refused connection ───────┘
//! ```
//! Time is counted in pings sent, not read from a clock: when this process itself stalls, no pings pass, and no peer is
//! blamed for it.

use std::{io, net::SocketAddr, sync::Arc};

use insula_env::{Beat, Clock, Rng, clock};
use insula_types::{NodeId, RegionName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::debug;

use crate::{
    Stream, Trouble,
    header::{Answer, Opening, Purpose, VERSION},
    limits,
    peers::Board,
    transport::Transport,
};

/// First and longest wait before a bad peer is tried again. The first try comes at once.
const BACKOFF: (std::time::Duration, std::time::Duration) =
    (std::time::Duration::from_millis(50), std::time::Duration::from_secs(1));

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// Not heard of yet; used, since nothing speaks against it.
    Unknown,
    /// It answers.
    Good,
    /// It does not.
    Bad(Trouble),
}

/// Decides from pings and pongs. Each method returns the health when it has changed.
#[derive(Debug)]
pub(crate) struct Judge {
    health: Health,
    unanswered: u32,
    pongs: u32,
}

impl Judge {
    pub(crate) const fn new() -> Self {
        Self { health: Health::Unknown, unanswered: 0, pongs: 0 }
    }

    fn turn(&mut self, health: Health) -> Option<Health> {
        let is_new = self.health != health;
        self.health = health;
        is_new.then_some(health)
    }

    /// The time of one ping has passed since the last pong or ping.
    pub(crate) fn on_ping(&mut self) -> Option<Health> {
        self.unanswered = self.unanswered.saturating_add(1);
        // The first of them has just been sent, and has had no time yet.
        if self.unanswered <= limits::PINGS_MISSED_MAX {
            return None;
        }
        self.pongs = 0;
        match self.health {
            Health::Bad(_) => None,
            Health::Unknown | Health::Good => self.turn(Health::Bad(Trouble::Silent)),
        }
    }

    /// A new connection was made: what went unanswered on the old one says nothing about it.
    pub(crate) fn on_open(&mut self) {
        self.unanswered = 0;
    }

    /// The peer answered.
    pub(crate) fn on_pong(&mut self) -> Option<Health> {
        self.unanswered = 0;
        self.pongs = self.pongs.saturating_add(1);
        match self.health {
            Health::Bad(_) if self.pongs < limits::PONGS_TO_RECOVER => None,
            _ => self.turn(Health::Good),
        }
    }

    /// The connection ended, or could not be made.
    pub(crate) fn on_end(&mut self, trouble: Trouble) -> Option<Health> {
        self.pongs = 0;
        match self.health {
            Health::Bad(_) => None,
            Health::Unknown | Health::Good => self.turn(Health::Bad(trouble)),
        }
    }
}

/// Watches one peer.
#[derive(Clone)]
pub(crate) struct Monitor {
    pub node: NodeId,
    /// Its region, where that is another one.
    pub region: Option<RegionName>,
    /// In the order in which they are tried.
    pub addresses: Arc<[SocketAddr]>,
    pub transport: Arc<dyn Transport>,
    pub board: Arc<Board>,
    pub clock: Clock,
    pub rng: Rng,
}

/// How a connection for pings ended.
enum End {
    /// It was old, or the peer asks for another one, as when its dataplane is taken over; nothing is wrong.
    Over,
    /// The peer, or the way to it, ended it.
    Broken(io::Error),
}

impl Monitor {
    pub(crate) async fn run(&self, beat: &Beat) {
        let mut judge = Judge::new();
        let every = if self.region.is_some() { limits::FAR_PING_EVERY } else { limits::PING_EVERY };
        let mut pings = self.clock.interval(every);
        let mut wait = None;
        loop {
            beat.alive();
            let end = match self.connect(&mut judge, &mut pings).await {
                Ok(stream) => self.ping(stream, &mut judge, &mut pings, &mut wait, beat).await,
                Err(error) => End::Broken(error),
            };
            let End::Broken(error) = end else { continue };
            let trouble = if error.kind() == io::ErrorKind::TimedOut { Trouble::Silent } else { Trouble::Reset };
            debug!(node = %self.node, %error, "the connection for pings ended");
            self.tell(judge.on_end(trouble));
            // At once the first time: a peer that restarts, or a connection that was merely cut, is back in no time.
            if let Some(wait) = wait {
                beat.idle(clock::sleep(self.rng.jitter(wait))).await;
            }
            wait = Some(wait.map_or(BACKOFF.0, |wait| (wait * 2).min(BACKOFF.1)));
        }
    }

    /// How long it may take to connect, and to write.
    const fn limit(&self) -> std::time::Duration {
        if self.region.is_some() { limits::FAR_DIAL } else { limits::DIAL }
    }

    fn tell(&self, change: Option<Health>) {
        if let Some(health) = change {
            self.board.set(self.node, health);
        }
    }

    /// Connects, while the judge goes on counting.
    async fn connect(&self, judge: &mut Judge, pings: &mut clock::Interval) -> io::Result<Stream> {
        let opening = Opening { version: VERSION, purpose: Purpose::Ping };
        let way = (self.region.as_ref(), self.node, &*self.addresses);
        let connecting = clock::timeout(self.limit(), open(&*self.transport, way, &opening));
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                biased;
                done = &mut connecting => {
                    return match done?? {
                        (stream, Answer::Ok) => {
                            judge.on_open();
                            Ok(stream)
                        }
                        (_, Answer::Refused { code, why }) => {
                            Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{code:?}: {why}")))
                        }
                    };
                }
                _ = pings.tick() => self.tell(judge.on_ping()),
            }
        }
    }

    async fn ping(
        &self,
        stream: Stream,
        judge: &mut Judge,
        pings: &mut clock::Interval,
        wait: &mut Option<std::time::Duration>,
        beat: &Beat,
    ) -> End {
        let age_max = self.clock.now() + limits::PING_CONNECTION_AGE;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut buffer = [0u8; 64];
        let mut filled = 0;
        let mut sent: u64 = 0;
        let mut is_heard = false;
        loop {
            // What has arrived is read before a new ping counts against the peer.
            let read = beat.idle(async {
                tokio::select! {
                    biased;
                    read = reader.read(&mut buffer[filled..8]) => Some(read),
                    _ = pings.tick() => None,
                }
            });
            match read.await {
                Some(read) => match read {
                    // A process that has crashed says nothing of its end: that is an error of TLS.
                    Ok(0) if is_heard => return End::Over,
                    Ok(0) => return End::Broken(io::ErrorKind::UnexpectedEof.into()),
                    Ok(bytes) => {
                        filled += bytes;
                        if filled == 8 {
                            filled = 0;
                            is_heard = true;
                            *wait = None;
                            self.tell(judge.on_pong());
                        }
                    }
                    Err(error) => return End::Broken(error),
                },
                None => {
                    if self.clock.now() > age_max {
                        return End::Over;
                    }
                    self.tell(judge.on_ping());
                    // A silent connection may stay silent for ever; a new one finds a peer that came back.
                    if matches!(judge.health, Health::Bad(_)) && judge.unanswered > limits::PINGS_MISSED_MAX {
                        return End::Broken(io::ErrorKind::TimedOut.into());
                    }
                    sent += 1;
                    let ping = sent.to_be_bytes();
                    let write = async {
                        writer.write_all(&ping).await?;
                        writer.flush().await
                    };
                    match clock::timeout(self.limit(), write).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return End::Broken(error),
                        Err(_) => return End::Broken(io::ErrorKind::TimedOut.into()),
                    }
                }
            }
        }
    }
}

/// Connects to a peer, of another region where one is named; says what for, and hears the answer.
pub(crate) async fn open(
    transport: &dyn Transport,
    (region, node, addresses): (Option<&RegionName>, NodeId, &[SocketAddr]),
    opening: &Opening,
) -> io::Result<(Stream, Answer)> {
    let mut stream = match region {
        Some(region) => transport.connect_far(region, node, addresses).await?,
        None => transport.connect(node, addresses).await?,
    };
    insula_catalog::frame::write(&mut stream, opening, limits::HEADER_BYTES).await?;
    let answer = insula_catalog::frame::read(&mut stream, limits::HEADER_BYTES).await?;
    Ok((stream, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_pings() {
        let mut judge = Judge::new();
        for _ in 0..limits::PINGS_MISSED_MAX {
            assert_eq!(judge.on_ping(), None);
        }
        assert_eq!(judge.on_ping(), Some(Health::Bad(Trouble::Silent)), "never heard of");
        assert_eq!(judge.on_pong(), None, "one answer is not enough");
        assert_eq!(judge.on_pong(), Some(Health::Good));
        assert_eq!(judge.on_end(Trouble::Reset), Some(Health::Bad(Trouble::Reset)));
        assert_eq!(judge.on_end(Trouble::Reset), None, "told once");
        assert_eq!(judge.on_pong(), None);
        assert_eq!(judge.on_end(Trouble::Reset), None);
        assert_eq!(judge.on_pong(), None, "the row begins anew");
        assert_eq!(judge.on_pong(), Some(Health::Good));
        for _ in 0..100 {
            assert_eq!(judge.on_ping(), None);
            assert_eq!(judge.on_pong(), None);
        }
    }
}
