//! Tracing set-up: one line of text per event to standard error, filtered by `INSULA_LOG` (as `RUST_LOG` is read).
//! What a level means is in the style guide: ERROR asks for a person, WARN is unexpected, INFO is a state change.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged when `INSULA_LOG` says nothing. openraft reports each lost peer at ERROR for every try; our own
/// code tells of lost peers once, so only its panics matter.
const DEFAULT_FILTER: &str = "info,openraft=off,hyper=warn,rustls=warn,oci_client=warn";

/// Starts logging for the process. Call once, in `main`; a second call does nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env("INSULA_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal).with_target(false).compact();
    // A subscriber that is set already (in tests) stays.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// An error with its causes on one line, for the `error` field of an event.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_chain_names_every_cause() {
        let inner = std::io::Error::other("disk on fire");
        let outer = std::io::Error::other(inner);
        assert_eq!(super::chain(&outer), "disk on fire");
    }
}
