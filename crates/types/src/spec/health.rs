//! How an instance is checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::PortName;

/// A check of an instance, from its node. It is ready while the check passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct HealthSpec {
    /// What is asked of it.
    pub check: Check,
    /// Port to ask on; none: [`crate::ServiceSpec::check_port`] says which.
    pub port: Option<PortName>,
    /// Time from one check to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long an instance may take until the first good answer before it is restarted.
    pub grace: Duration,
    /// Failures in a row that make it unready.
    pub unhealthy_after: u32,
    /// How long an instance that was ready may be unready before it is restarted; none: for ever.
    pub restart_after: Option<Duration>,
}

/// What is asked of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// GET of this path answers with a status from 200 to 399.
    Http(String),
    /// A connection is taken.
    Tcp,
    /// This command, run inside the instance, returns 0.
    Exec(Vec<String>),
    /// `grpc.health.v1.Health/Check` of this service answers SERVING; empty: the server as a whole
    /// (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
    Grpc(String),
}

impl HealthSpec {
    /// Whether programs of level 3 and before know all of it.
    pub(super) const fn is_of_first_level(&self) -> bool {
        matches!(self.check, Check::Http(_)) && self.restart_after.is_none()
    }
}

/// As it is written down: `http` alone is what the first programs knew.
#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    port: Option<PortName>,
    interval: Duration,
    timeout: Duration,
    grace: Duration,
    unhealthy_after: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tcp: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exec: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restart_after: Option<Duration>,
}

impl From<HealthSpec> for Wire {
    fn from(spec: HealthSpec) -> Self {
        let HealthSpec { check, port, interval, timeout, grace, unhealthy_after, restart_after } = spec;
        let (http, tcp, exec, grpc) = match check {
            Check::Http(path) => (Some(path), false, Vec::new(), None),
            Check::Tcp => (None, true, Vec::new(), None),
            Check::Exec(command) => (None, false, command, None),
            Check::Grpc(service) => (None, false, Vec::new(), Some(service)),
        };
        Self { http, port, interval, timeout, grace, unhealthy_after, tcp, exec, grpc, restart_after }
    }
}

impl TryFrom<Wire> for HealthSpec {
    type Error = &'static str;
    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        let Wire { http, port, interval, timeout, grace, unhealthy_after, tcp, exec, grpc, restart_after } = wire;
        let check = match (http, tcp, exec, grpc) {
            (Some(path), false, exec, None) if exec.is_empty() => Check::Http(path),
            (None, true, exec, None) if exec.is_empty() => Check::Tcp,
            (None, false, exec, None) if !exec.is_empty() => Check::Exec(exec),
            (None, false, exec, Some(service)) if exec.is_empty() => Check::Grpc(service),
            _ => return Err("a check of one kind"),
        };
        Ok(Self { check, port, interval, timeout, grace, unhealthy_after, restart_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    /// What programs up to level 3 write and read.
    #[derive(Debug, Serialize, Deserialize)]
    struct First {
        http: String,
        port: Option<PortName>,
        interval: Duration,
        timeout: Duration,
        grace: Duration,
        unhealthy_after: u32,
    }

    fn spec(check: Check) -> HealthSpec {
        let second = Duration::from_secs(1);
        HealthSpec {
            check,
            port: None,
            interval: second,
            timeout: second,
            grace: second,
            unhealthy_after: 2,
            restart_after: None,
        }
    }

    #[test]
    fn all_kinds_survive_and_the_first_is_written_as_ever() {
        let command = vec!["pg_isready".to_owned()];
        for check in [Check::Http("/".to_owned()), Check::Tcp, Check::Exec(command), Check::Grpc(String::new())] {
            let spec = HealthSpec { restart_after: Some(Duration::from_secs(9)), ..spec(check) };
            assert_eq!(codec::decode::<HealthSpec>(&codec::encode(&spec)).expect("own format"), spec);
        }
        let http = spec(Check::Http("/healthz".to_owned()));
        let first: First = codec::decode(&codec::encode(&http)).expect("an older program reads it");
        assert_eq!(codec::encode(&first), codec::encode(&http), "to the byte");
    }

    #[test]
    fn a_check_of_two_kinds_or_of_none_is_refused() {
        let mut wire = Wire::from(spec(Check::Tcp));
        wire.grpc = Some(String::new());
        codec::decode::<HealthSpec>(&codec::encode(&wire)).expect_err("two kinds");
        wire = Wire::from(spec(Check::Tcp));
        wire.tcp = false;
        codec::decode::<HealthSpec>(&codec::encode(&wire)).expect_err("none");
    }
}
