//! Listens to what the simulated parts log: a panic of any task, and any unlisted error, is a violation.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::{EnvFilter, Layer, Registry, filter::LevelFilter, layer::Context, prelude::*};

/// Errors that faults of ours are meant to cause.
const EXPECTED: [&str; 1] = ["group stopped on this node"];
/// Kept at most.
const ERRORS_MAX: usize = 5;

/// A subscriber for one run.
pub(crate) struct Quiet {
    errors: Arc<Mutex<Vec<String>>>,
    is_verbose: bool,
}

impl Quiet {
    pub(crate) fn new(is_verbose: bool) -> Self {
        Self { errors: Arc::default(), is_verbose }
    }

    /// Runs `act` while listening on this thread.
    pub(crate) fn watch<R>(&self, act: impl FnOnce() -> R) -> R {
        let listener = Listener(Arc::clone(&self.errors)).with_filter(LevelFilter::ERROR);
        if self.is_verbose {
            let filter = EnvFilter::try_from_env("SIM_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
            let printer = tracing_subscriber::fmt::layer().without_time().with_ansi(false).with_filter(filter);
            tracing::subscriber::with_default(Registry::default().with(listener).with(printer), act)
        } else {
            tracing::subscriber::with_default(Registry::default().with(listener), act)
        }
    }

    pub(crate) fn errors(&self) -> Vec<String> {
        std::mem::take(&mut self.errors.lock())
    }
}

struct Listener(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let origin = event.metadata();
        if *origin.level() > Level::ERROR || !origin.target().starts_with("insula") {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut errors = self.0.lock();
        if errors.len() < ERRORS_MAX && !EXPECTED.iter().any(|expected| text.0.contains(expected)) {
            errors.push(format!("logged as an error: {}", text.0));
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}
