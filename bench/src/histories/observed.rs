//! The clients as a process of their own, in the network of the lab's services, and what they have written down.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;

use super::record::{Group, Outcome, Record, Span};
use crate::{
    interrupt::hears,
    lab::{Lab, LabNode},
};

/// Clients that run, and their records; ended when dropped.
pub(crate) struct Observed {
    child: Child,
    records: Arc<Mutex<Vec<Record>>>,
    reader: Option<JoinHandle<()>>,
}

impl Observed {
    /// Starts the clients, with so many milliseconds between two operations of each.
    pub(crate) fn start(lab: &Lab, nodes: &[LabNode], seed: u64, pause_ms: u64) -> Result<Self> {
        let mut command = lab.command_at("services", &lab.programs().bench);
        command
            .args(["clients", "--seed", &seed.to_string(), "--pause-ms", &pause_ms.to_string()])
            .env("INSULA_CONTEXT", lab.context()?);
        for node in nodes {
            command.args(["--target", &node.api().to_string()]);
        }
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = hears(&mut command).spawn().context("start the clients")?;
        let stdout = child.stdout.take().context("read from the clients")?;
        let records = Arc::<Mutex<Vec<Record>>>::default();
        let kept = Arc::clone(&records);
        #[allow(clippy::disallowed_methods, reason = "a blocking read beside the faults; there are no tasks in here")]
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // A line cut short by the end of the program says nothing.
                if let Ok(record) = serde_json::from_str(&line) {
                    kept.lock().push(record);
                }
            }
        });
        Ok(Self { child, records, reader: Some(reader) })
    }

    /// Lets the clients come to their end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| anyhow::anyhow!("reading from the clients panicked"))?;
        }
        let status = self.child.wait().context("wait for the clients")?;
        ensure!(status.success(), "the clients ended badly ({status})");
        Ok(())
    }

    /// Looks at everything.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.records.lock())
    }

    pub(super) fn count(&self) -> usize {
        self.records.lock().len()
    }

    /// Writes everything to a file, a line each.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path).with_context(|| format!("make {}", path.display()))?);
        for record in &*self.records.lock() {
            writeln!(file, "{}", serde_json::to_string(record)?)?;
        }
        Ok(file.flush()?)
    }

    /// The name of a group's leader, as somebody said last.
    pub(super) fn leader(&self, of: Group) -> Option<String> {
        self.records.lock().iter().rev().find_map(|record| match record {
            Record::Status { group, leader: Some(leader), .. } if *group == of => Some(leader.clone()),
            _ => None,
        })
    }

    /// What is not well yet: a node that does not say who leads, a group that confirms no write. Only what was asked
    /// after a moment counts.
    pub(super) fn missing(&self, since_us: u64, nodes: &[String]) -> Option<String> {
        let records = self.records.lock();
        let recent =
            records.iter().rev().take_while(|record| begun_us(record).is_none_or(|at| at + SLACK_US > since_us));
        let (mut leaders, mut confirmed) = (BTreeMap::new(), BTreeMap::new());
        for record in recent {
            match record {
                Record::Status { span, node, group, leader, has_stopped, .. } if span.start_us > since_us => {
                    let says = match leader {
                        _ if *has_stopped => Err("says that its storage has failed"),
                        Some(leader) => Ok(leader.clone()),
                        None => Err("knows no leader"),
                    };
                    leaders.entry((node.clone(), *group)).or_insert(says);
                }
                other => {
                    if let (Some((group, _)), Some(at)) = (other.confirmed(), begun_us(other))
                        && at > since_us
                    {
                        confirmed.insert(group, ());
                    }
                }
            }
        }
        for group in [Group::Region, Group::Global] {
            let mut named = Vec::new();
            for node in nodes {
                match leaders.get(&(node.clone(), group)).unwrap_or(&Err("does not answer")) {
                    Ok(leader) => named.push(leader),
                    Err(why) => return Some(format!("of the {group:?} group {node} {why}")),
                }
            }
            if named.windows(2).any(|pair| pair[0] != pair[1]) {
                return Some(format!("the nodes disagree on who leads the {group:?} group: {named:?}"));
            }
            if !confirmed.contains_key(&group) {
                return Some(format!("no write to the {group:?} group was confirmed"));
            }
        }
        None
    }
}

/// Records come in the order of their ends; so much earlier may one have begun than another that came before it.
const SLACK_US: u64 = 30_000_000;
fn begun_us(record: &Record) -> Option<u64> {
    match record {
        Record::Register { span, outcome: Outcome::Ok(_), .. }
        | Record::Revision { span, .. }
        | Record::Member { span, .. }
        | Record::Status { span, .. } => Some(span_start(span)),
        _ => None,
    }
}

const fn span_start(span: &Span) -> u64 {
    span.start_us
}

impl Drop for Observed {
    fn drop(&mut self) {
        // Ended already when they were stopped.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
